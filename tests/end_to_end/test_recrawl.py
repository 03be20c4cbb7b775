"""Two crawls of a changed site and one retrain, through the schedules and sensors that are declared for it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestration.identity.catalog import prefix, read_catalog
from orchestration.stages import BY_NAME
from orchestration.store import open_store
from tests.end_to_end.harness import REPOSITORY, STAMP, Home
from tests.end_to_end.site import make_site, serve, write_index, write_page

pytestmark = pytest.mark.slow

SECOND = "20260201T030000Z"
FITTED = ("tokenizer_sample", "tokenizer", "tokenizer_report")
UP_TO_TOKENS = ("crawl_delta", "extracted_documents", "filtered_documents", "document_signatures", "duplicate_clusters")
UP_TO_TOKENS += ("contamination", "corpus", "token_shards")

TICKS = """
import datetime, json, sys
import dagster as dg
from orchestration.graph.definitions import defs
from orchestration.process.workplace import open_workplace

instance = open_workplace().instance
when = datetime.datetime.strptime(sys.argv[1], "%Y%m%dT%H%M%SZ").replace(tzinfo=datetime.timezone.utc)
told = []

def act(name, tick):
    requests = list(tick.run_requests or [])
    told.append({"name": name, "requests": len(requests), "skip": tick.skip_message})
    for request in requests:
        job = defs.resolve_job_def(request.job_name or owner(name).job_name)
        result = job.execute_in_process(instance=instance, partition_key=request.partition_key,
            asset_selection=request.asset_selection, tags=request.tags, raise_on_error=True)
        told[-1]["success"] = result.success

def owner(name):
    return schedules.get(name) or sensors[name]

schedules = {s.name: s for s in defs.schedules}
sensors = {s.name: s for s in defs.sensors}
for name in ("recrawl_site", "build_what_is_stale", "build_what_is_stale", "retrain_tiny", "index_new_runs", "retrain_tiny"):
    if name in schedules:
        context = dg.build_schedule_context(instance=instance, scheduled_execution_time=when, repository_def=defs.get_repository_def())
        act(name, schedules[name].evaluate_tick(context))
    else:
        context = dg.build_sensor_context(instance=instance, repository_def=defs.get_repository_def())
        act(name, sensors[name].evaluate_tick(context))
defaults = {s.name: s.default_status.value for s in [*defs.schedules, *defs.sensors]}
print(json.dumps({"told": told, "defaults": defaults}))
"""


@pytest.fixture(scope="module")
def recrawled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, dict[str, Any]]:
    """A built home whose site then changed, and what the schedules and sensors did about it."""
    folder = tmp_path_factory.mktemp("recrawl")
    site = make_site(folder / "site", zh=16, en=16, fr=2)
    with serve(site) as port:
        home = Home.create(folder / "home", port)
        home.headwater("run", "--recipe", "tiny", "--at", STAMP)
        write_page(site, "zh", "page-003", "page-003 rewritten")
        write_page(site, "en", "page-004", "page-004 rewritten")
        write_page(site, "zh", "page-new")
        gone = trained_page(home)
        (site / "en" / gone).unlink()
        write_index(site)
        environment = home.env() | {"DAGSTER_HOME": str(home.state / "dagster")}
        process = subprocess.run(
            [sys.executable, "-c", TICKS, SECOND], cwd=REPOSITORY, env=environment, capture_output=True, text=True
        )
        assert process.returncode == 0, process.stderr[-4000:]
    return home, json.loads(process.stdout.splitlines()[-1]) | {"gone": f"en/{gone}"}


def trained_page(home: Home) -> str:
    """An English page that the first run has read (which ones it read depends on the port, through the URLs)."""
    read = {row["doc_id"] for row in rows(home, "order_manifest", "order", f"tiny@{STAMP}")}
    pages = [
        row["url"].rsplit("/", 1)[1]
        for row in rows(home, "corpus", "documents")
        if row["doc_id"] in read and "/en/" in row["url"]
    ]
    return next(page for page in sorted(pages) if page != "page-004.html")


def test_everything_is_off_by_default(recrawled: tuple[Home, dict[str, Any]]) -> None:
    defaults = recrawled[1]["defaults"]
    assert {"recrawl_site", "retrain_tiny", "build_what_is_stale", "index_new_runs"} <= set(defaults)
    assert set(defaults.values()) == {"STOPPED"}


def test_the_ticks_crawl_build_retrain_and_index(recrawled: tuple[Home, dict[str, Any]]) -> None:
    home, result = recrawled
    told = [(t["name"], t["requests"]) for t in result["told"]]
    assert told == [
        ("recrawl_site", 1),
        ("build_what_is_stale", 1),
        ("build_what_is_stale", 0),
        ("retrain_tiny", 1),
        ("index_new_runs", 1),
        ("retrain_tiny", 0),
    ]
    states = home.states()
    assert states[f"release_card[tiny@{SECOND}]"] == "fresh"
    assert states[f"release_card[tiny@{STAMP}]"] == "history"
    assert {state for label, state in states.items() if STAMP not in label or "tiny" not in label} == {"fresh"}


def test_the_delta_names_what_changed_and_removal_reaches_the_corpus(recrawled: tuple[Home, dict[str, Any]]) -> None:
    home, told = recrawled
    gone = told["gone"]
    delta = {
        row["url"].rsplit("/", 2)[-2] + "/" + row["url"].rsplit("/", 1)[-1]: row["change"]
        for row in rows(home, "crawl_delta", "delta", f"site@{SECOND}")
    }
    assert delta["zh/page-003.html"] == "changed"
    assert delta["en/page-004.html"] == "changed"
    assert delta["zh/page-new.html"] == "added"
    assert delta[gone] == "removed"
    assert delta["zh/page-007.html"] == "unchanged"
    extracted = rows(home, "extracted_documents", "documents", f"site@{SECOND}")
    assert len(extracted) == sum(change in ("added", "changed") for change in delta.values())
    urls = {
        row["url"].rsplit("/", 2)[-2] + "/" + row["url"].rsplit("/", 1)[-1] for row in rows(home, "corpus", "documents")
    }
    assert "zh/page-new.html" in urls
    assert gone not in urls
    answer = home.headwater("lineage", f"/{gone}").stdout
    assert f"tiny@{STAMP}" in answer


def test_the_delta_build_equals_a_build_from_scratch(recrawled: tuple[Home, dict[str, Any]], tmp_path: Path) -> None:
    home, _ = recrawled
    scratch = Home.create(tmp_path / "scratch", home.port)
    transplant(home, scratch, ("raw_crawl", *FITTED))
    scratch.headwater("run", "--recipe", "tiny", "--no-train")
    ours, theirs = home.versions(), scratch.versions()
    compared = [label for label in theirs if label.partition("[")[0] in UP_TO_TOKENS]
    assert len(compared) >= 4 * 3 + 4
    assert {label: theirs[label] for label in compared} == {label: ours[label] for label in compared}


def rows(home: Home, asset: str, name: str, partition: str | None = None) -> list[dict[str, Any]]:
    from tests.end_to_end.test_whole_graph import table

    return table(home, asset, name, partition)  # type: ignore[return-value]


def transplant(source: Home, target: Home, assets: tuple[str, ...]) -> None:
    """Copy published segments of some assets, with their manifests, into a new store."""
    old, new = open_store(source.state / "store.git"), open_store(target.state / "store.git")
    catalog = read_catalog(old)
    put = {}
    for asset in assets:
        for key in catalog.keys(asset):
            for info in old.list(catalog.commit, prefix(BY_NAME[asset], key)):
                put[info.path] = old.read_bytes(catalog.commit, info.path)
    new.commit("main", put, message="the same raw partitions")
