"""What is crawled and configured is for its owner: new homes and stores can be entered by nobody else."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestration.process.workplace import Workplace
from orchestration.store import open_store


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(folder: Path) -> int:
    return stat.S_IMODE(folder.stat().st_mode)


def workplace(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    for name in ("DAGSTER_HOME", "HEADWATER_STORE"):
        monkeypatch.setenv(name, "")
    return Workplace(folder / "below" / "home")


def test_home_and_store_are_created_for_their_owner_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = workplace(tmp_path, monkeypatch)
    place.store.log()
    assert (mode(place.home), mode(place.home / "store.git")) == (0o700, 0o700)


@pytest.mark.parametrize("folder", ["dagster", "locks", "locks/deeper"])
def test_whatever_is_made_first_the_home_is_private(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = workplace(tmp_path, monkeypatch)
    if folder == "dagster":
        assert place.dagster_home == place.home / folder
    else:
        place.make(place.home / folder)
    assert (mode(place.home), mode(place.home / folder)) == (0o700, 0o700)


def test_folders_that_are_elsewhere_are_private_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = workplace(tmp_path, monkeypatch)
    monkeypatch.setenv("HEADWATER_STORE", str(tmp_path / "a" / "data.git"))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "b" / "dagster"))
    place.store.log()
    assert (mode(tmp_path / "a" / "data.git"), mode(place.dagster_home)) == (0o700, 0o700)


def test_the_mode_that_a_person_gave_an_empty_folder_stays(tmp_path: Path) -> None:
    (tmp_path / "shared.git").mkdir()
    (tmp_path / "shared.git").chmod(0o2770)
    open_store(tmp_path / "shared.git")
    open_store(tmp_path / "shared.git")
    assert mode(tmp_path / "shared.git") == 0o2770
