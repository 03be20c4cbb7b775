"""The training program as a PyTorchJob of the Kubeflow training operator: one pod per node, each runs torchrun.

The operator gives every pod the PET_* variables that torchrun reads (nodes, processes per node, where the ranks
meet). A pod that fails is not restarted by itself: all ranks must start together, so the launcher sends the job again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from assets.build import BuildError
from orchestration.launch import program
from orchestration.launch.queued_job import QueuedJob, ranks_per_node, run_tool
from orchestration.training_place import KubernetesTraining
from training.contract.request import TrainRequest

DELETED_WITHIN = "120s"


def pytorch_job(
    options: KubernetesTraining, request_path: Path, request: TrainRequest, environment: Mapping[str, str]
) -> dict[str, Any]:
    """The manifest. Raises BuildError for paths outside the volume, or ranks that do not spread evenly over the pods."""
    for what, path in (("the request", request_path), ("the output folder", request.output)):
        if not path.is_relative_to(options.mount_path):
            raise BuildError(
                f"{what} {path} is not on the volume that the pods mount ({options.mount_path}): set HEADWATER_HOME to a "
                "folder on it, or [training.kubernetes] mount_path in the profile"
            )
    ranks = ranks_per_node(request, options.nodes, "kubernetes")
    replicas = {"Master": _replica(options, request_path, request, environment, 1)}
    if options.nodes > 1:
        replicas["Worker"] = _replica(options, request_path, request, environment, options.nodes - 1)
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {
            "name": job_name(request.run),
            "namespace": options.namespace,
            "labels": {"app.kubernetes.io/name": "headwater", "app.kubernetes.io/component": "training"},
        },
        "spec": {
            "nprocPerNode": str(ranks),
            "runPolicy": {"cleanPodPolicy": "None", "backoffLimit": 0},
            "pytorchReplicaSpecs": replicas,
        },
    }


def job_name(run: str) -> str:
    """A DNS label (at most 63 characters) that is stable for a run and different for any two."""
    readable = re.sub(r"[^a-z0-9]+", "-", run.lower()).strip("-")[:40].strip("-")
    return f"headwater-{readable}-{hashlib.sha256(run.encode()).hexdigest()[:8]}"


def _replica(
    options: KubernetesTraining,
    request_path: Path,
    request: TrainRequest,
    environment: Mapping[str, str],
    replicas: int,
) -> dict[str, Any]:
    variables = program.rank_environment(request) | dict(environment)
    resources = {"cpu": str(options.cpus_per_node), "memory": f"{options.memory_gb_per_node}Gi"}
    if options.gpus_per_node:
        resources["nvidia.com/gpu"] = str(options.gpus_per_node)
    container = {
        "name": "pytorch",  # the operator looks for a container of this name
        "image": options.image,
        "command": ["python", "-m", "torch.distributed.run", "-m", program.PROGRAM, "--request", str(request_path)],
        "env": [{"name": name, "value": value} for name, value in sorted(variables.items())],
        "resources": {"requests": resources, "limits": resources},
        "volumeMounts": [
            {"name": "home", "mountPath": options.mount_path},
            {"name": "shared-memory", "mountPath": "/dev/shm"},
        ],
    }
    volumes = [
        {"name": "home", "persistentVolumeClaim": {"claimName": options.volume_claim}},
        {"name": "shared-memory", "emptyDir": {"medium": "Memory"}},
    ]
    return {
        "replicas": replicas,
        "restartPolicy": "Never",
        "template": {"spec": {"containers": [container], "volumes": volumes}},
    }


class KubernetesJob(QueuedJob):
    """A PyTorchJob that was sent to the cluster."""

    def __init__(self, name: str, namespace: str, log_path: Path, poll_s: float) -> None:
        super().__init__(log_path, poll_s)
        self.name = name
        self._namespace = namespace

    def look(self) -> bool | None:
        """By the conditions that the operator sets. The last words of the pods of a failed job go into the log."""
        content = json.loads(_kubectl("get", "pytorchjob", self.name, "--namespace", self._namespace, "--output=json"))
        true = {c["type"]: c for c in content.get("status", {}).get("conditions", []) if c["status"] == "True"}
        self.waiting = "Running" not in true
        if "Succeeded" in true:
            return True
        if "Failed" not in true:
            return None
        selector = f"training.kubeflow.org/job-name={self.name}"
        tail = _kubectl("logs", "--namespace", self._namespace, f"--selector={selector}", "--tail=100", "--prefix")
        self.log_path.write_text(f"{true['Failed'].get('message', '')}\n{tail}", "utf-8")
        return False


@contextlib.contextmanager
def kubernetes_job(
    options: KubernetesTraining,
    request_path: Path,
    request: TrainRequest,
    workdir: Path,
    environment: Mapping[str, str],
) -> Iterator[KubernetesJob]:
    """The job applied with kubectl; deleted, with its pods, when the block ends. One left by a killed launcher is deleted first."""
    workdir.mkdir(parents=True, exist_ok=True)
    manifest = pytorch_job(options, request_path, request, environment)
    path = workdir / "pytorchjob.json"
    path.write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")
    name = manifest["metadata"]["name"]
    delete = ("delete", "pytorchjob", name, "--namespace", options.namespace)
    gone = ("--ignore-not-found", "--cascade=foreground", f"--timeout={DELETED_WITHIN}")
    _kubectl(*delete, *gone)
    _kubectl("apply", "--filename", str(path))
    try:
        yield KubernetesJob(name, options.namespace, workdir / "pods.log", options.poll_s)
    finally:
        _kubectl(*delete, *gone)


def _kubectl(*arguments: str) -> str:
    done = run_tool("kubernetes", "kubectl", *arguments)
    if done.returncode:
        raise BuildError(f"kubectl {' '.join(arguments[:3])} failed: {done.stderr.strip()}")
    return done.stdout
