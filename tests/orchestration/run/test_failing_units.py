"""One bad unit does not stop the others: through the driver, on sources that die, come back and are abandoned."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestration.graph.unfinished import registered
from orchestration.identity.partitions import PartitionError
from orchestration.run.driver import Driver, Options, RunFailedError
from tests.end_to_end.harness import REPOSITORY
from tests.orchestration.nights import Nights

FIRST, SECOND, THIRD = "20260101T000000Z", "20260102T000000Z", "20260103T000000Z"


@pytest.fixture
def nights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nights:
    return Nights.create(tmp_path, monkeypatch, "alpha", "beta", "gamma")


@pytest.fixture(scope="module")
def built_once(tmp_path_factory: pytest.TempPathFactory) -> Nights:
    """Three sources, all of them crawled once."""
    with pytest.MonkeyPatch.context() as patch:
        nights = Nights.create(tmp_path_factory.mktemp("nights"), patch, "alpha", "beta", "gamma")
        nights.run(at=FIRST)
    return nights


@pytest.fixture
def built(built_once: Nights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nights:
    """A copy of one's own; the sources lie where they lay."""
    return built_once.copy(tmp_path, monkeypatch)


@pytest.mark.slow
def test_a_dead_source_listed_first_stops_no_other(nights: Nights) -> None:
    nights.kill("alpha")
    with pytest.raises(RunFailedError, match=r"raw_crawl: .*alpha.* tries alpha@\d+T\d+Z again"):
        nights.run()
    assert nights.documents() == {"alpha": 0, "beta": 6, "gamma": 6}
    assert nights.status().needing() == []
    with pytest.raises(RunFailedError, match="alpha"):  # still red: alpha has no crawl at all
        nights.run()
    nights.revive("alpha")
    nights.run()
    assert nights.documents() == {"alpha": 6, "beta": 6, "gamma": 6}


def test_failures_are_told_together(nights: Nights) -> None:
    nights.kill("alpha")
    nights.kill("gamma")
    with pytest.raises(RunFailedError) as failed:
        nights.run(at=FIRST)
    words = str(failed.value)
    assert words.startswith("2 steps failed; what does not need them was done.")
    assert f"- crawl_job alpha@{FIRST}: raw_crawl: " in words
    assert f"- crawl_job gamma@{FIRST}: raw_crawl: " in words
    assert nights.documents() == {"alpha": 0, "beta": 6, "gamma": 0}


@pytest.mark.slow
def test_a_failed_recrawl_is_tried_once_more_and_then_only_when_asked(built: Nights) -> None:
    key = f"beta@{SECOND}"
    built.kill("beta")
    with pytest.raises(RunFailedError, match="--abandon beta@"):
        built.run("beta", at=SECOND)
    assert Driver(built.workplace, Options("tiny")).due_crawls() == [key]
    with pytest.raises(RunFailedError, match="beta"):
        built.run()
    built.run()  # green: it is not tried again
    driver = Driver(built.workplace, Options("tiny"))
    assert (driver.due_crawls(), driver.held_back) == ([], [key])
    built.revive("beta")
    built.run()
    assert key not in built.catalog().partitions("raw_crawl")
    built.run("beta")
    assert key in built.catalog().partitions("raw_crawl")
    assert Driver(built.workplace, Options("tiny")).held_back == []


@pytest.mark.slow
def test_an_interrupted_crawl_is_continued_however_often(built: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    for _ in range(3):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr("assets.sources.defs.raw_crawl", interrupted)
            built.run("alpha", at=SECOND)
    built.run()
    assert f"alpha@{SECOND}" in built.catalog().partitions("raw_crawl")


@pytest.mark.slow
def test_an_older_unfinished_crawl_is_superseded(built: Nights) -> None:
    built.kill("beta")
    with pytest.raises(RunFailedError):
        built.run("beta", at=SECOND)
    built.workplace.instance.add_dynamic_partitions("crawl", [f"beta@{THIRD}"])
    built.revive("beta")
    built.run()
    assert built.catalog().partitions("raw_crawl").count(f"beta@{THIRD}") == 1
    built.run()
    assert f"beta@{SECOND}" not in built.catalog().partitions("raw_crawl")


@pytest.mark.slow
def test_what_is_abandoned_is_forgotten(built: Nights) -> None:
    key = f"beta@{SECOND}"
    built.kill("beta")
    with pytest.raises(RunFailedError):
        built.run("beta", at=SECOND)
    built.run(abandon=(key,))
    assert key not in registered(built.workplace, "crawl")
    driver = Driver(built.workplace, Options("tiny"))
    assert (driver.due_crawls(), driver.held_back) == ([], [])
    with pytest.raises(PartitionError, match=rf"{key} was never started\. No partition is unfinished\."):
        built.run(abandon=(key,))
    with pytest.raises(PartitionError, match=f"alpha@{FIRST} is published"):
        built.run(abandon=(f"alpha@{FIRST}",))


@pytest.mark.slow
def test_a_crawl_whose_extraction_fails_keeps_only_itself_out(built: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    from assets.documents import defs

    whole = defs.extracted_documents

    def extract(build: object) -> object:
        if str(getattr(build, "partition", "")).startswith("alpha"):
            raise ValueError("a parser broke")
        return whole(build)  # type: ignore[arg-type]

    for source in ("alpha", "beta"):
        built.write(source, 7, "en 77" if source == "alpha" else "en 78")
    with monkeypatch.context() as patch:
        patch.setattr(defs, "extracted_documents", extract)
        with pytest.raises(RunFailedError, match=r"extracted_documents: .*a parser broke"):
            built.run("alpha", "beta", at=SECOND)
    assert built.documents() == {"alpha": 6, "beta": 7, "gamma": 6}
    broken = {item.label for item in built.status().needing()}
    assert broken == {
        f"{a}[alpha@{SECOND}]" for a in ("extracted_documents", "filtered_documents", "document_signatures")
    }
    built.run()
    assert built.documents() == {"alpha": 7, "beta": 7, "gamma": 6}


@pytest.mark.slow
def test_what_needs_a_failed_rebuild_waits_and_is_named(built: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    from assets.documents import defs

    whole = defs.filtered_documents

    def filtered(build: object) -> object:
        if str(getattr(build, "partition", "")).startswith("alpha"):
            raise ValueError("a rule broke")
        return whole(build)  # type: ignore[arg-type]

    recipe = built.folder / "config/recipes/curation.toml"
    recipe.write_text(recipe.read_text() + "filters.en.min_characters = 7\n")
    before = built.catalog().manifests["corpus", None]["version"]
    with monkeypatch.context() as patch:
        patch.setattr(defs, "filtered_documents", filtered)
        with pytest.raises(RunFailedError) as failed:
            built.run()
    words = str(failed.value)
    assert "a rule broke" in words
    assert f"document_signatures[alpha@{FIRST}]" in words.split("Not built, for ")[1]
    assert "duplicate_clusters" in words.split("is not fresh: ")[1]
    states = {item.label: item.state for item in built.status().items.values()}
    assert states[f"filtered_documents[beta@{FIRST}]"] == states[f"filtered_documents[gamma@{FIRST}]"] == "fresh"
    assert built.catalog().manifests["corpus", None]["version"] == before
    built.run()
    assert built.status().needing() == []


@pytest.mark.slow
def test_a_run_with_nothing_to_do_walks_the_graph_once(built: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestration.run import driver

    walks = []

    def counted(*arguments: Any) -> Any:
        walks.append(arguments)
        return driver_walk(*arguments)

    driver_walk = driver.walk
    monkeypatch.setattr(driver, "walk", counted)
    built.run()
    assert len(walks) == 1
    walks.clear()
    built.run("alpha")
    assert len(walks) == 3, "before and after the crawl, and after the global stages; the lineage stays fresh"


NOTHING_TO_DO = """
import sys
from orchestration.run.driver import Options
from orchestration.cli.runner import run_to_date
from orchestration.process.workplace import open_workplace
run_to_date(open_workplace(), Options("tiny", train=False), as_json=True)
sys.exit("Dagster was imported" if "dagster" in sys.modules else 0)
"""


@pytest.mark.slow
def test_a_run_with_nothing_to_do_does_without_dagster(built: Nights) -> None:
    command = [sys.executable, "-c", NOTHING_TO_DO]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    assert "Everything is up to date" in done.stderr
