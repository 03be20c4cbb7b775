"""Raw pages and logs are readable by the user who made them, whatever the umask."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestration.store import open_store
from orchestration.workplace import Workplace


def mode(folder: Path) -> int:
    return stat.S_IMODE(folder.stat().st_mode)


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def test_home_dagster_home_and_store_are_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.delenv("HEADWATER_STORE", raising=False)
    workplace = Workplace(tmp_path / "deep" / "home")
    _ = workplace.store
    folders = [workplace.home.parent, workplace.home, workplace.home / "store.git", workplace.dagster_home]
    assert {folder.name: mode(folder) for folder in folders} == {folder.name: 0o700 for folder in folders}


def test_a_store_made_by_itself_is_private(tmp_path: Path) -> None:
    open_store(tmp_path / "store.git")
    assert mode(tmp_path / "store.git") == 0o700


def test_a_home_that_exists_keeps_its_mode(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o770)
    workplace = Workplace(shared)
    workplace.make(shared / "locks")
    assert mode(shared) == 0o770
    assert mode(shared / "locks") == 0o700
