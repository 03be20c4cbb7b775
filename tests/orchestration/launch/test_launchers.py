"""One request on this machine, on Slurm and on Kubernetes; a lost worker; what is worth a restart and what is not."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
from pathlib import Path
from typing import Any, cast

import kubernetes_validate
import pytest
from kubeflow.training import models

from assets.build import BuildError, SilentProgress
from orchestration.config import ConfigError, validate
from orchestration.launch import kubernetes as kubernetes_training
from orchestration.launch import program, watch
from orchestration.launch.kubernetes import job_name, pytorch_job
from orchestration.launch.slurm import sbatch_script
from orchestration.launch.trainer import LocalTrainer, launch
from orchestration.launch.training_failure import StopWithoutProgress, WorkerLostError, failure
from orchestration.training_place import KubernetesTraining, SlurmTraining, TrainingPlace
from tests.campaigns.slurm import SlurmUnavailableError, slurm
from tests.training.running import STOPPING, exact, weights
from tests.training.tiny import tiny_request, write_request
from training.contract.request import TrainRequest

pytestmark = pytest.mark.slow

SLURM = {"partition": "cpu", "time": "00:05:00", "poll_s": 0.5}
KUBERNETES = {"image": "headwater:1", "volume_claim": "headwater", "mount_path": "/data"}


def test_a_lost_worker_restarts_the_run_from_its_last_checkpoint(
    undisturbed: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "PROGRAM", STOPPING)
    for name, value in {"STOP_AFTER_STEP": "5", "STOP_HOW": "kill", "STOP_ONCE": str(tmp_path / "once")}.items():
        monkeypatch.setenv(name, value)
    place = TrainingPlace.model_validate({"restarts": 1, "restart_wait_s": 0})
    request = write_request(tmp_path, tiny_request(data, tmp_path / "out"))
    LocalTrainer(place).run(request, tmp_path, SilentProgress())
    assert exact(tmp_path / "out") == exact(undisturbed)
    assert weights(tmp_path / "out") == weights(undisturbed)
    attempts = [json.loads(line) for line in (tmp_path / "out/attempts.jsonl").read_text().splitlines()]
    assert attempts[0]["step"] == 0
    assert attempts[1]["step"] in (1, 3)  # the kill may have come while the checkpoint of step 3 was being written
    assert "rank 0 was killed by signal 9 (SIGKILL)" in attempts[1]["restarted_after"]


def left_behind(folder: Path, output: str = "", **error: Any) -> tuple[Path, Path]:
    """error.json and a log as a run that failed leaves them."""
    if error:
        said = {"type": "RuntimeError", "rank": 0, "message": "lost", "traceback": "...", "expected": False} | error
        (folder / "error.json").write_text(json.dumps(said))
    (folder / "torchrun.log").write_text(output)
    return folder / "error.json", folder / "torchrun.log"


def test_only_what_may_succeed_unchanged_is_worth_a_restart(tmp_path: Path) -> None:
    killed = "failed (exitcode: -9) local_rank: 1 (pid: 7)"
    refused = failure(1, *left_behind(tmp_path, killed, type="RequestError", expected=True, worth_a_restart=False))
    assert not isinstance(refused, WorkerLostError)
    hung = failure(1, *left_behind(tmp_path, type="StepTimeoutError", expected=True, worth_a_restart=True))
    assert isinstance(hung, WorkerLostError)
    survivor = failure(1, *left_behind(tmp_path, killed, message="connection closed", worth_a_restart=True))
    assert isinstance(survivor, WorkerLostError)
    assert re.search(r"^rank 1 was killed by signal 9 .* Then training stopped on rank 0: .*closed", str(survivor))
    (tmp_path / "error.json").unlink()
    assert isinstance(failure(1, *left_behind(tmp_path, killed)), WorkerLostError)
    assert not isinstance(failure(1, *left_behind(tmp_path, "ImportError: no module")), WorkerLostError)
    assert isinstance(failure(-15, *left_behind(tmp_path)), WorkerLostError)


def test_restarts_are_counted_from_the_last_new_checkpoint(tmp_path: Path) -> None:
    def saved(folder: str, step: int) -> None:
        (tmp_path / folder / f"step-{step:08d}").mkdir(parents=True)
        (tmp_path / folder / f"step-{step:08d}/complete.json").touch()

    saved("out/checkpoints", 3)
    stop = StopWithoutProgress(tmp_path / "out", restarts=2)
    state = cast(Any, None)  # it looks at the folder alone
    assert [stop(state), stop(state)] == [False, False]
    saved("out-rolling", 5)
    assert [stop(state), stop(state), stop(state)] == [False, False, True]


def test_a_run_that_waits_in_a_queue_does_not_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(watch.time, "monotonic", lambda: now[0])
    watchdog = watch.Watchdog(step_timeout_s=10)
    now[0] += watch.FIRST_STEP_S + 1
    watchdog.begin_again()
    watchdog.check()
    watchdog.saw(1)
    now[0] += 20 + watch.HANG_GRACE_S
    watchdog.check()
    now[0] += 1
    with pytest.raises(WorkerLostError, match="recorded no step for 81 s, the last one was 1"):
        watchdog.check()


def test_the_profile_must_describe_where_training_runs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"launcher = 'slurm' needs a table \[training.slurm\]"):
        validate(TrainingPlace, {"launcher": "slurm"}, tmp_path / "p.toml", "training")
    with pytest.raises(ConfigError, match=r"training.slurm.partitions: unknown key"):
        validate(
            TrainingPlace, {"launcher": "slurm", "slurm": SLURM | {"partitions": "x"}}, tmp_path / "p.toml", "training"
        )


def large_request(data: Path, output: Path, layout: dict[str, int]) -> TrainRequest:
    """A request for several nodes."""
    content = tiny_request(data, output, parallelism=layout, global_batch_size=48, local_batch_size=1)
    return TrainRequest.model_validate(content)


def test_the_job_script_starts_one_torchrun_per_node(data: Path, tmp_path: Path) -> None:
    options = SlurmTraining.model_validate(SLURM | {"nodes": 2, "gpus_per_node": 4, "sbatch": {"qos": "high"}})
    request = large_request(data, tmp_path / "out", {"dp_shard": 4, "tp": 2})
    script = sbatch_script(options, tmp_path / "request.json", request, tmp_path, {"A": "b c"})
    for line in ("--nodes=2", "--gres=gpu:4", "--requeue", "--signal=B:USR1@120", "--qos=high", "--time=00:05:00"):
        assert f"#SBATCH {line}\n" in script
    assert "export A='b c'\n" in script
    assert '--nproc-per-node 4 --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d --rdzv-endpoint "$first:29500"' in script
    with pytest.raises(BuildError, match="3 ranks cannot be spread evenly over 2 nodes: change the layout"):
        sbatch_script(options, tmp_path / "r.json", large_request(data, tmp_path, {"dp_shard": 3}), tmp_path, {})


def test_a_real_slurm_trains_the_same_run_also_when_it_puts_the_job_back(
    undisturbed: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rank hangs after step 5; `scontrol requeue`, as after a lost node and as before the time limit."""
    place = TrainingPlace.model_validate({"launcher": "slurm", "slurm": SLURM, "restarts": 0})
    output, work = tmp_path / "out", tmp_path / "work"
    request = write_request(tmp_path, tiny_request(data, output))
    monkeypatch.setattr(program, "PROGRAM", STOPPING)
    for name, value in {"STOP_AFTER_STEP": "5", "STOP_HOW": "hang", "STOP_ONCE": str(tmp_path / "once")}.items():
        monkeypatch.setenv(name, value)
    put_back: list[str] = []

    def look() -> None:
        if not put_back and (tmp_path / "once").exists():
            put_back.append((work / "slurm_job").read_text())
            subprocess.run(["scontrol", "requeue", put_back[0]], check=True)
        elif put_back:  # Slurm lets it wait for the lifetime of a credential, two minutes: no need to here
            subprocess.run(["scontrol", "update", f"jobid={put_back[0]}", "StartTime=now"], capture_output=True)

    try:
        with slurm(tmp_path / "slurm") as environment:
            monkeypatch.setenv("SLURM_CONF", environment["SLURM_CONF"])
            launch(request, work, SilentProgress(), place, on_poll=look)
    except SlurmUnavailableError as error:
        pytest.skip(str(error))
    assert put_back
    assert exact(output) == exact(undisturbed)
    assert weights(output) == weights(undisturbed)
    assert len((output / "attempts.jsonl").read_text().splitlines()) == 2
    assert not (work / "slurm_job").exists()


def known_keys(content: dict[str, Any], model: Any) -> dict[str, Any]:
    """Refuses a key that the operator's own model does not have; returns the content by the model's names."""
    names = {json_name: name for name, json_name in model.attribute_map.items()}
    assert set(content) <= set(names), set(content) - set(names)
    return {names[key]: value for key, value in content.items()}


def test_the_pytorchjob_is_one_the_operator_and_kubernetes_know(data: Path) -> None:
    options = KubernetesTraining.model_validate(KUBERNETES | {"nodes": 2, "gpus_per_node": 8})
    request = large_request(data, Path("/data/out"), {"dp_shard": 8, "tp": 2})
    manifest = pytorch_job(options, Path("/data/scratch/request.json"), request, {"WANDB_MODE": "offline"})
    job = known_keys(manifest, models.KubeflowOrgV1PyTorchJob)
    spec = known_keys(job["spec"], models.KubeflowOrgV1PyTorchJobSpec)
    models.KubeflowOrgV1RunPolicy(**known_keys(spec["run_policy"], models.KubeflowOrgV1RunPolicy))
    assert spec["nproc_per_node"] == "8"
    assert {name: replica["replicas"] for name, replica in spec["pytorch_replica_specs"].items()} == {
        "Master": 1,
        "Worker": 1,
    }
    for replica in spec["pytorch_replica_specs"].values():
        template = known_keys(replica, models.KubeflowOrgV1ReplicaSpec)["template"]
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "checked"}, **template}
        kubernetes_validate.validate(pod, "1.34", strict=True)
        container = template["spec"]["containers"][0]
        assert container["command"][-2:] == ["--request", "/data/scratch/request.json"]
        assert {"name": "WANDB_MODE", "value": "offline"} in container["env"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "8"
    with pytest.raises(BuildError, match=r"the output folder /elsewhere is not on the volume .*\(/data\)"):
        elsewhere = request.model_copy(update={"output": Path("/elsewhere")})
        pytorch_job(options, Path("/data/request.json"), elsewhere, {})


def test_names_of_jobs_are_dns_labels_and_differ() -> None:
    names = {job_name(run) for run in ("demo@20260101T000000Z", "demo-20260101T000000Z", "演示@2026", "x" * 90)}
    assert len(names) == 4
    assert all(re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name) and len(name) <= 63 for name in names)


KUBECTL = """#!/bin/sh
# Stands in for a cluster: the job runs at `apply`, and what was asked is written down.
echo "$@" >> "$KUBECTL_LOG"
case "$1" in
  get) echo '{"status": {"conditions": [{"type": "Created", "status": "True"}, CONDITION]}}';;
  logs) echo "[pod/master] the last words";;
esac
"""


@pytest.mark.parametrize(
    ("outcome", "says"), [("Succeeded", None), ("Failed", "BackoffLimitExceeded\n.*the last words")]
)
def test_a_pytorchjob_is_sent_watched_and_deleted(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: str, says: str | None
) -> None:
    """No API server can be had here: kubectl is a script."""
    condition = {"type": outcome, "status": "True", "message": "BackoffLimitExceeded"}
    kubectl = tmp_path / "bin/kubectl"
    kubectl.parent.mkdir()
    kubectl.write_text(KUBECTL.replace("CONDITION", json.dumps(condition)))
    kubectl.chmod(kubectl.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{kubectl.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("KUBECTL_LOG", str(tmp_path / "asked"))
    kubernetes = KUBERNETES | {"mount_path": str(tmp_path), "poll_s": 0.01}
    place = TrainingPlace.model_validate({"launcher": "kubernetes", "kubernetes": kubernetes})
    request = write_request(tmp_path, tiny_request(data, tmp_path / "out"))
    if says is None:
        LocalTrainer(place).run(request, tmp_path / "work", SilentProgress())
    else:
        with pytest.raises(BuildError, match=re.compile(says, re.DOTALL)):
            LocalTrainer(place).run(request, tmp_path / "work", SilentProgress())
    asked = [line.split()[0] for line in (tmp_path / "asked").read_text().splitlines()]
    assert (asked[:2], asked[-1]) == (["delete", "apply"], "delete")
    manifest = json.loads((tmp_path / "work/pytorchjob.json").read_text())
    assert manifest["metadata"]["name"] == kubernetes_training.job_name("tiny")
