"""What doctor says of a store on lakeFS."""

from __future__ import annotations

from pathlib import Path

from orchestration.doctor.store import store
from tests.orchestration.store.lakefs import servers


def test_a_local_store_has_nothing_to_ask() -> None:
    assert store({}) == []
    assert store({"HEADWATER_STORE": "/some/folder"}) == []


def test_servers_that_answer_are_well(tmp_path: Path) -> None:
    urls = servers.server_urls()
    environ = servers.store_environment(tmp_path, urls["lakefs"], urls["s3"])
    (finding,) = store({**environ, "HEADWATER_STORE": f"lakefs://{servers.repository_of(tmp_path)}"})
    assert finding.ok, finding
    assert "1 branches, 0 takedowns" in finding.found


def test_what_is_missing_or_away_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    (missing,) = store({"HEADWATER_STORE": "lakefs://headwater"})
    assert (missing.ok, missing.severity) == (False, "error")
    assert "HEADWATER_LAKEFS_ENDPOINT" in missing.found
    environ = servers.store_environment(tmp_path, "http://127.0.0.1:9", "http://127.0.0.1:9")
    (away,) = store({**environ, "HEADWATER_STORE": "lakefs://headwater"})
    assert (away.ok, "docs/store.md" in away.remedy) == (False, True)
    assert "1 attempts" in away.found
