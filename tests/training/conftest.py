"""Shared pieces of the training tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training import tiny
from training.machine import cpu_support


@pytest.fixture(scope="session", autouse=True)
def _on_cpu() -> None:
    """torchtitan may only be imported after this."""
    cpu_support.enable()


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """index.parquet, two shards, order.parquet of 40 sequences, and decays of 12 and 20 from sequence 16 on."""
    folder = tmp_path_factory.mktemp("data")
    lengths = tiny.write_tokens(folder)
    tiny.write_order(folder, lengths, sequences=40)
    tiny.write_order(folder, lengths[::-1], sequences=12, first=16, name="decay")
    tiny.write_order(folder, lengths[20:], sequences=20, first=16, name="other-decay")
    return folder


@pytest.fixture(scope="session")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output of the tiny request trained in one go."""
    from tests.training.running import train

    folder = tmp_path_factory.mktemp("undisturbed")
    train(folder, tiny.tiny_request(data, folder / "out"))
    return folder / "out"
