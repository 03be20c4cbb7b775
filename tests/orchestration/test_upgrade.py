"""Homes of earlier versions, opened by the code of now: as fresh as they were, and nothing is built again.

Each fixture is a whole home (a web site and a folder of code of our own making, a run of a small model) with the
configuration it was built from. A change of an on-disk format, or of how staleness is found, comes with a fixture of
the version before it.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from orchestration.identity.catalog import read_catalog
from orchestration.store import open_store
from tests.end_to_end.harness import Home

FIXTURES = Path(__file__).parents[1] / "fixtures"
HOMES = {"home-2026-11": "code was hashed by file"}
"""Fixture -> what was different then."""


@pytest.fixture(params=HOMES)
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Home:
    with tarfile.open(FIXTURES / f"{request.param}.tar.xz") as tar:
        tar.extractall(tmp_path / "home", filter="data")
    return Home(tmp_path / "home", 42617, {"HEADWATER_TEST_CODE": str(tmp_path)})


def test_a_home_of_an_earlier_version_is_as_fresh_as_it_was(home: Home) -> None:
    store = open_store(str(home.state / "store.git"))
    before = read_catalog(store).commit
    items = home.json("status", expect=None)["items"]
    assert len(items) == 28
    not_of_us = "library changed"  # what is installed here may be newer than what the home was built with
    causes = [cause for item in items for cause in item["causes"] if not cause.startswith((not_of_us, "upstream"))]
    assert causes == []
    if all(item["state"] == "fresh" for item in items):
        assert "nothing to do" in home.headwater("run", "--recipe", "tiny").stdout
        assert read_catalog(store).commit == before
    assert home.headwater("verify").returncode == 0
    assert home.json("lineage", "http://127.0.0.1:42617/zh/page-000.html")
