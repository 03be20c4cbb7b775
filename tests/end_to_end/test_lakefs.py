"""The whole graph with its store on lakeFS and S3: every data version equals that of the Git store.

Many minutes over HTTP, so it runs with `make campaign-store` and not with `make test`.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestration.store import open_store
from orchestration.store.copy import copy_store
from tests.end_to_end.harness import STAMP, Home
from tests.orchestration.store.lakefs import servers
from tests.shared_build import Built


@pytest.mark.skipif("HEADWATER_TEST_LAKEFS_GRAPH" not in os.environ, reason="many minutes: make campaign-store")
@pytest.mark.timeout(3600)  # the whole graph, over HTTP
def test_the_whole_graph_on_lakefs_gives_the_same_data(built: Built, tmp_path: Path) -> None:
    urls = servers.server_urls()
    home = Home.create(tmp_path / "home", built.home.port)
    home.timeout_s = 3000
    home.environment |= servers.store_environment(tmp_path, urls["lakefs"], urls["s3"])
    home.environment["HEADWATER_STORE"] = f"lakefs://{servers.repository_of(tmp_path)}"
    home.headwater("run", "--recipe", "tiny", "--at", STAMP)
    assert home.versions() == built.home.versions()
    assert set(home.states().values()) == {"fresh"}
    assert not (home.state / "store.git").exists()
    assert "nothing to do" in home.headwater("run", "--recipe", "tiny").stdout
    assert home.json("verify")["damage"] == []
    assert home.json("gc")["deleted_objects"] == 0
    doctor = {finding["name"]: finding for finding in home.json("doctor", expect=None)}
    assert doctor["store"]["ok"], doctor["store"]
    copied = open_store(tmp_path / "back.git")
    copy_store(servers.lakefs_store(tmp_path), copied)  # type: ignore[arg-type]
    theirs, ours = open_store(built.home.state / "store.git"), copied
    assert {i.path for i in ours.list("main")} == {i.path for i in theirs.list("main")}
