"""Shared pieces of the training tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training import tiny
from training import cpu_support


@pytest.fixture(scope="session", autouse=True)
def _on_cpu() -> None:
    """torchtitan may only be imported after this."""
    cpu_support.enable()


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """index.parquet, order.parquet of 40 sequences, two shards."""
    folder = tmp_path_factory.mktemp("data")
    tiny.write_order(folder, tiny.write_tokens(folder), sequences=40)
    return folder
