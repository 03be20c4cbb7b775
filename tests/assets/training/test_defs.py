"""The training assets built as the publisher builds them, with and without Dagster."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets.build import Build, BuildError, Segment, StageReport
from assets.schemas import CORPUS
from assets.tables import write_table
from assets.training.defs import base_checkpoints, compute_plan, loss_incidents
from orchestration.identity.digest import data_version
from orchestration.launch.trainer import LocalTrainer, PipesTrainer
from quality.asset_checks import run_checks
from quality.outcome import Evidence
from tests.builds import make_build, segment_of
from tests.training import tiny
from training.contract.request import load_request

RUN = "tiny@20260101T000000Z"
RECIPES: dict[str, Any] = {
    "model": {"dim": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "sequence_length": tiny.SEQUENCE_LENGTH},
    "training": {
        "total_steps": 12,
        "warmup_steps": 1,
        "decay_steps": 4,
        "peak_lr": 0.03,
        "global_batch_size": 4,
        "local_batch_size": 4,
        "early_checkpoint_steps": [1, 6],
        "threads": 1,
    },
    "incidents": {"burn_in_steps": 8},
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[Segment]:
    """Published tokenizer, token_shards, order_manifest and corpus of a tiny world."""
    root = tmp_path_factory.mktemp("inputs")
    shards, order, tokenizer, corpus = (root / name for name in ("shards", "order", "tokenizer", "corpus"))
    for folder in (shards, order, tokenizer):
        folder.mkdir()
    lengths = tiny.write_tokens(shards)
    encoding = {"dtype": "uint16", "end_of_text_id": 0, "vocabulary_size": tiny.VOCABULARY - 3}
    (shards / "encoding.json").write_text(json.dumps(encoding))
    tiny.write_phases(order, lengths, stable=32, decay=16)
    vocabulary = {str(number): number for number in range(tiny.VOCABULARY - 3)}
    (tokenizer / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}, "added_tokens": []}))
    rows = [dict.fromkeys(CORPUS.names) | {"doc_id": d, "url": f"https://example.org/{d}"} for d, _ in lengths]
    write_table(corpus, "documents", rows, CORPUS)
    return [
        segment_of(shards, "token_shards"),
        segment_of(order, "order_manifest", RUN, "order-v1"),
        segment_of(tokenizer, "tokenizer"),
        segment_of(corpus, "corpus"),
    ]


def build_of(folder: Path, asset: str, inputs: list[Segment], trainer: Any = None, **training: Any) -> Build:
    recipes = RECIPES | {"training": RECIPES["training"] | training}
    return replace(make_build(folder, asset, inputs, recipes, RUN), trainer=trainer)


def verdicts(asset: str, report: StageReport) -> dict[str, bool]:
    evidence = Evidence(report.as_json(), None, {}, 0)
    return {check.name: check.outcome.passed for check in run_checks(asset, evidence)}


@pytest.fixture(scope="module")
def trained(inputs: list[Segment], tmp_path_factory: pytest.TempPathFactory) -> tuple[Build, StageReport]:
    """base_checkpoints built without Dagster."""
    build = build_of(tmp_path_factory.mktemp("trained"), "base_checkpoints", inputs, LocalTrainer())
    return build, base_checkpoints(build)


def test_compute_plan_writes_the_plan_and_checks_the_order(inputs: list[Segment], tmp_path: Path) -> None:
    build = build_of(tmp_path, "compute_plan", inputs)
    report = compute_plan(build)
    plan = json.loads((build.output / "plan.json").read_text())
    assert (plan["tokens"], plan["vocabulary"], plan["vocabulary_padded"]) == (12 * 4 * 32, 125, 128)
    assert verdicts("compute_plan", report)["a_rank_fits_its_device"]
    assert report.plots["Learning rate"].startswith(b"\x89PNG")
    with pytest.raises(BuildError, match="plans 48 sequences, but total_steps \\(13\\)"):
        compute_plan(build_of(tmp_path, "compute_plan", inputs, total_steps=13))


def test_checkpoints_become_rows_with_the_hash_of_their_weights(trained: tuple[Build, StageReport]) -> None:
    build, report = trained
    published = segment_of(build.output, "base_checkpoints", RUN)
    rows = published.table("checkpoints").to_pylist()
    assert [row["step"] for row in rows] == [1, 6, 12]
    assert [row["sequences_seen"] for row in rows] == [4, 24, 48]
    assert len({row["weights_sha256"] for row in rows}) == 3
    assert rows[-1]["parameters"] == report.stats["parameters"]
    marker = json.loads((build.output / "checkpoints/step-00000006/complete.json").read_text())
    assert (marker["order_fingerprint"], marker["decay_order_fingerprint"]) == ("stable-1", "decay-1")
    metrics = published.table("metrics").to_pylist()
    assert [row["step"] for row in metrics] == list(range(1, 13))
    assert metrics[5]["loss"] == rows[1]["train_loss"]
    assert dict(metrics[0]["channel_loss"]).keys() <= set(tiny.CHANNELS)
    passed = verdicts("base_checkpoints", report)
    assert passed.pop("the_loader_keeps_up") in (True, False)  # a matter of how busy the machine is
    assert all(passed.values())
    assert all(len(png) < 40_000 for png in report.plots.values())
    config = json.loads((build.output / "checkpoints/step-00000012/hf/config.json").read_text())
    assert (config["vocab_size"], config["eos_token_id"]) == (128, 0)


def test_what_did_not_learn_fails_its_blocking_check(trained: tuple[Build, StageReport]) -> None:
    _, report = trained
    stuck = replace(report, stats=report.stats | {"final_loss_share_of_first": 0.999, "first_loss_over_uniform": 0.5})
    failed = {name for name, passed in verdicts("base_checkpoints", stuck).items() if not passed}
    failed.discard("the_loader_keeps_up")
    assert failed == {"the_model_learned", "the_first_loss_is_that_of_an_untrained_model"}
    starved = replace(report, stats=report.stats | {"final_channel_loss": {"zh": 99.0}})
    assert not verdicts("base_checkpoints", starved)["every_channel_learned"]


def test_incidents_of_a_real_run(trained: tuple[Build, StageReport], inputs: list[Segment], tmp_path: Path) -> None:
    published = segment_of(trained[0].output, "base_checkpoints", RUN)
    build = build_of(tmp_path, "loss_incidents", [*inputs, published])
    report = loss_incidents(build)
    assert (report.stats["steps"], report.stats["incidents"]) == (12, 0)
    assert segment_of(build.output, "loss_incidents").table("incidents").num_rows == 0
    assert verdicts("loss_incidents", report)["losses_and_gradients_are_finite"]


def test_a_damaged_export_is_refused(trained: tuple[Build, StageReport]) -> None:
    from assets.training.results import checkpoint_rows, metric_rows

    build, _ = trained
    request = load_request(build.scratch / "request.json")
    metrics = metric_rows(build.output, 12)
    weights = build.output / "checkpoints/step-00000006/hf/model.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(BuildError, match="damaged"):
        checkpoint_rows(build.output, request, metrics)
    weights.write_bytes(content)
    with pytest.raises(BuildError, match="12 lines for 13 steps and goes wrong at step 13"):
        metric_rows(build.output, 13)


def test_under_dagster_metrics_are_observed_live_and_the_data_are_the_same(
    trained: tuple[Build, StageReport], inputs: list[Segment], tmp_path: Path
) -> None:
    seen: dict[str, Any] = {}

    @dg.asset(name="base_checkpoints")
    def asset(context):  # type: ignore[no-untyped-def]  # dagster cannot resolve a string annotation here
        trainer = PipesTrainer(context, observe_every_steps=10)
        build = build_of(tmp_path, "base_checkpoints", inputs, trainer)
        seen["version"] = data_version(build.output, base_checkpoints(build).volatile_files)
        yield dg.MaterializeResult()

    with dg.DagsterInstance.ephemeral() as instance:
        assert dg.materialize([asset], instance=instance).success
        records = instance.fetch_observations(dg.AssetKey("base_checkpoints"), limit=100).records
    observed = [record.event_log_entry.asset_observation for record in records]
    steps = sorted(o.metadata["step"].value for o in observed if o)
    assert steps == [1, 10, 12]
    assert any("loss/zh" in o.metadata for o in observed if o)
    build, report = trained
    assert seen["version"] == data_version(build.output, report.volatile_files)


def test_another_decay_takes_over_what_was_trained_before_it(
    trained: tuple[Build, StageReport], inputs: list[Segment], tmp_path: Path
) -> None:
    versions = []
    for name, others in (("afresh", []), ("branch", [segment_of(trained[0].output, "base_checkpoints", RUN)])):
        build = build_of(tmp_path / name, "base_checkpoints", inputs, LocalTrainer(), min_lr_ratio=0.5)
        report = base_checkpoints(replace(build, partition="other@20260101T000000Z", others=others))
        versions.append(data_version(build.output, report.volatile_files))
        attempts = next(sample for sample in report.samples if sample.title == "Attempts")
    assert versions[0] == versions[1]
    assert report.stats["steps_taken_over"] == 6
    assert attempts.rows[0][1] == f"step-00000006 of {RUN}, the same until the decay"


def test_without_a_launcher_the_build_says_so(inputs: list[Segment], tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="needs a launcher"):
        base_checkpoints(build_of(tmp_path, "base_checkpoints", inputs))


def test_a_damaged_file_of_another_run_is_no_reason_to_fail(trained: tuple[Build, StageReport], tmp_path: Path) -> None:
    from assets.training.branches import branch_folder

    whole = segment_of(trained[0].output, "base_checkpoints", RUN)
    request = load_request(trained[0].scratch / "request.json")
    assert branch_folder([whole], request, tmp_path) == tmp_path / "branch"
    assert branch_folder([replace(whole, files=Unreadable(whole.files))], request, tmp_path) is None


class Unreadable(dict[str, Path]):
    """Files of a store whose metrics.jsonl is damaged."""

    def __getitem__(self, name: str) -> Path:
        if name == "metrics.jsonl":
            raise BuildError("the bytes of metrics.jsonl have another SHA-256")
        return super().__getitem__(name)
