"""Layers, throughput, boards and the held-out sample: each measured against a definition of its own."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from assets.build import StageReport
from assets.schemas import MIXTURE
from assets.tables import write_table
from assets.training.heldout_order import WatchRecipe, heldout_sample
from assets.training.watched import add_watched, curves_of
from tests.builds import segment_of
from tests.training import tiny
from tests.training.running import train
from training.contract.errors import RequestError
from training.contract.request import ModelShape, TrainRequest, Watch
from training.watching.boards import open_boards, scalars_of, scalars_of_rows, write_all
from training.watching.layers import layer_names, layer_of
from training.watching.throughput import Throughput, flops_per_token, peak_flops


def test_parameters_belong_to_layers_whatever_wraps_them() -> None:
    assert layer_names(2) == ["tok_embeddings", "layers.0", "layers.1", "norm", "output"]
    assert layer_of("layers.1.attention.wq.weight") == "layers.1"
    assert layer_of("layers.1._orig_mod._checkpoint_wrapped_module.ffn.w1.weight") == "layers.1"
    assert layer_of("tok_embeddings.weight") == "tok_embeddings"


def test_flops_are_six_per_multiplied_parameter_and_those_of_attention() -> None:
    shape = ModelShape(dim=8, n_layers=2, n_heads=2, n_kv_heads=1, vocab_size=100, sequence_length=16)
    assert flops_per_token(shape, 10_000) == 6 * (10_000 - 800) + 12 * 2 * 8 * 16


def test_mfu_and_time_left_follow_from_the_step() -> None:
    throughput = Throughput(flops_per_token=1000, peak=1e6, total_steps=10)
    assert throughput.of_step(1, 0.5, 200.0) == {"mfu": 0.2, "eta_s": 4.5}
    throughput.of_step(2, 30.0, 200.0)  # one slow step
    assert throughput.of_step(3, 0.5, 200.0)["eta_s"] == 3.5


def test_the_peak_of_this_machine_is_that_of_its_matrix_product() -> None:
    peak = peak_flops()
    assert math.isfinite(peak)
    left = torch.rand(512, 512)
    assert peak > 1e8, "slower than a pocket calculator's emulation"
    assert left.shape == (512, 512)


def test_scalars_are_flat_and_named_for_people() -> None:
    row = {"step": 3, "loss": 2.0, "channel_loss": {"zh": 2.5}, "note": "x"}
    assert scalars_of(row) == {"loss": 2.0, "loss/zh": 2.5}
    layers = [{"step": 3, "layer": "norm", "gradient_norm": 0.5, "activation_rms": None, "anomaly": True}]
    assert scalars_of_rows(layers, "layer") == {"norm/gradient_norm": 0.5, "norm/anomaly": 1.0}


def test_boards_write_files_that_their_own_tools_read(data: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    request = TrainRequest.model_validate(tiny.tiny_request(data, tmp_path / "out"))
    environment = {"HEADWATER_BOARDS": "tensorboard", "HEADWATER_BOARDS_FOLDER": str(tmp_path / "boards")}
    boards = open_boards(request, environment)
    for step in (1, 2):
        write_all(boards, step, {"loss/zh": 3.0 - step})
    boards[0].close()
    events = EventAccumulator(str(tmp_path / "boards/tiny/tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss/zh")] == [(1, 2.0), (2, 1.0)]


def test_an_unknown_board_is_refused_and_one_that_fails_is_dropped(data: Path, tmp_path: Path) -> None:
    request = TrainRequest.model_validate(tiny.tiny_request(data, tmp_path / "out"))
    with pytest.raises(RequestError, match="'tensorbord'; known are tensorboard, wandb"):
        open_boards(request, {"HEADWATER_BOARDS": "tensorbord"})

    class Broken:
        def write(self, step: int, scalars: Any) -> None:
            raise OSError("disk full")

        def close(self) -> None: ...

    boards: list[Any] = [Broken()]
    write_all(boards, 1, {"loss": 1.0})
    assert boards == []


def test_a_report_shows_the_end_layers_the_anomalies_and_heldout_loss() -> None:
    layers = [
        {"step": step, "layer": f"layers.{n}", "gradient_norm": 1.0, "weight_norm": 1.0, "update_ratio": 0.1 * n}
        | {"activation_rms": 1.0, "anomaly": (step, n) == (20, 3)}
        for step in (10, 20)
        for n in range(12)
    ]
    heldout = [{"step": step, "channel": "all", "loss": 5.0 - step / 10} for step in (10, 20)]
    curves = curves_of(layers, "layer", "update_ratio", 4)
    assert list(curves) == ["layers.0", "layers.4", "layers.7", "layers.11"]
    assert curves["layers.4"] == ([10.0, 20.0], [0.4, 0.4])
    report = StageReport()
    add_watched(report, layers, heldout)
    assert report.stats == {"layer_anomalies": 1, "heldout_loss": {"all": 3.0}}
    assert report.samples[0].rows[0][:2] == (20, "layers.3")
    assert sorted(report.plots) == ["Gradient norm per layer", "Held-out loss", "Update over weight"]
    untouched = StageReport()
    add_watched(untouched, [], [])
    assert (untouched.stats, untouched.plots) == ({}, {})


def mixture(folder: Path) -> Any:
    rows = [
        dict.fromkeys(MIXTURE.names)
        | {
            "doc_id": doc_id,
            "channel": tiny.CHANNELS[n % 3],
            "split": "heldout" if n % 4 else "train",
            "tokens": tokens,
        }
        for n, (doc_id, tokens) in enumerate(tiny.write_tokens(folder))
    ]
    write_table(folder / "mixture", "documents", rows, MIXTURE)
    return segment_of(folder / "mixture", "mixture_manifest")


def test_the_sample_is_of_heldout_documents_in_whole_sequences_per_channel(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    found = mixture(tmp_path)
    recipe = WatchRecipe(heldout_every_steps=3, heldout_tokens=99)
    watch = heldout_sample(found, recipe, tiny.SEQUENCE_LENGTH, tmp_path / "work")
    rows = pq.read_table(watch.heldout[0]).to_pylist()
    heldout = {r["doc_id"]: r for r in found.table("documents").to_pylist() if r["split"] == "heldout"}
    assert all(row["doc_id"] in heldout and row["channel"] == heldout[row["doc_id"]]["channel"] for row in rows)
    numbers = sorted({row["sequence"] for row in rows})
    assert numbers == list(range(len(numbers)))
    for number in numbers:
        mine = [row for row in rows if row["sequence"] == number]
        assert sum(row["length"] for row in mine) == tiny.SEQUENCE_LENGTH + 1
        assert len({row["channel"] for row in mine}) == 1
        assert [row["piece"] for row in mine] == list(range(len(mine)))
    assert len(numbers) == 3 * 3  # 99 tokens are three windows of 33, in each of three channels
    assert heldout_sample(found, WatchRecipe(), 32, tmp_path) == Watch(layers_every_steps=10)


def test_a_watched_run_measures_layers_and_heldout_text(tmp_path: Path) -> None:
    """Against the weights themselves: the exports of two steps in a row."""
    from safetensors.torch import load_file

    lengths = tiny.write_tokens(tmp_path)
    tiny.write_order(tmp_path, lengths, sequences=40)
    watch = heldout_sample(
        mixture(tmp_path), WatchRecipe(heldout_every_steps=2), tiny.SEQUENCE_LENGTH, tmp_path / "work"
    )
    request = tiny.tiny_request(
        tmp_path,
        tmp_path / "out",
        watch=watch.model_dump(mode="json") | {"layers_every_steps": 2},
        checkpoint_steps=[1, 2, 6],
    )
    train(tmp_path, request)
    lines = [json.loads(line) for line in (tmp_path / "out/layers.jsonl").read_text().splitlines()]
    assert [line["layer"] for line in lines if line["step"] == 2] == layer_names(2)
    assert sorted({line["step"] for line in lines}) == [2, 4, 6]
    metrics = [json.loads(line) for line in (tmp_path / "out/metrics.jsonl").read_text().splitlines()]
    of_step = {line["layer"]: line for line in lines if line["step"] == 2}
    total = math.sqrt(sum(line["gradient_norm"] ** 2 for line in of_step.values()))
    assert total == pytest.approx(metrics[1]["gradient_norm"], rel=1e-4)
    before, after = (load_file(tmp_path / f"out/checkpoints/step-{step:08d}/hf/model.safetensors") for step in (1, 2))
    name = "model.embed_tokens.weight"
    ratio = float((after[name] - before[name]).norm() / after[name].norm())
    assert of_step["tok_embeddings"]["update_ratio"] == pytest.approx(ratio, rel=1e-4)
    assert of_step["tok_embeddings"]["weight_norm"] == pytest.approx(float(after[name].norm()), rel=1e-5)
    assert of_step["layers.0"]["activation_rms"] > 0
    assert of_step["output"]["activation_rms"] is None
    heldout = [json.loads(line) for line in (tmp_path / "out/heldout.jsonl").read_text().splitlines()]
    assert [(row["step"], row["channel"]) for row in heldout[:4]] == [(2, c) for c in (*tiny.CHANNELS, "all")]
    assert heldout[-1]["loss"] < heldout[3]["loss"]
    assert heldout[3]["loss"] == pytest.approx(
        np.average([r["loss"] for r in heldout[:3]], weights=[r["tokens"] for r in heldout[:3]])
    )
    assert heldout[0]["perplexity"] == pytest.approx(math.exp(heldout[0]["loss"]))
    assert all(0 < row["mfu"] < 1 and 0 < row["monitoring_s"] < row["step_s"] for row in metrics)
