"""Slices of `make campaign-layouts`: real ranks follow one process, and hold what the plan estimates."""

from __future__ import annotations

from pathlib import Path

from tests.campaigns import layouts, memory
from tests.training import tiny


def test_an_interleaved_pipeline_follows_one_process_from_its_checkpoint(tmp_path: Path) -> None:
    tiny.write_order(tmp_path, tiny.write_tokens(tmp_path), sequences=8 * (layouts.SEED_STEP + layouts.STEPS))
    seed = layouts.write_seed(tmp_path)
    row = layouts.compare(tmp_path, "PP2, interleaved", seed, tmp_path / "seed/out")
    assert max(row.loss, row.channel_loss, row.gradient_norm) < 1e-5
    assert row.weights < 1e-4
    assert row.clipped_alike
    assert row.met


def test_the_estimate_is_near_what_the_ranks_allocate(tmp_path: Path) -> None:
    (row,) = memory.measure(tmp_path / "case", "FSDP2x2")
    assert abs(row.error) < 0.03, row
    assert row.worst_moment == "loss"
