"""What is read from Dagster's files is what Dagster says; a run with nothing to do does without Dagster."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import dagster as dg
import pytest
from dagster import DagsterRunStatus

from orchestration.process.dagster_peek import no_run_is_under_way, partitions
from orchestration.process.workplace import Workplace


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home whose Dagster knows two crawls and a run."""
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    workplace = Workplace(tmp_path)
    assert partitions(workplace, "crawl") == []
    workplace.instance.add_dynamic_partitions("crawl", ["b@20260101T000000Z", "a@20260102T000000Z"])
    workplace.instance.add_dynamic_partitions("run", ["tiny@20260101T000000Z"])
    return tmp_path


def begin(home: Path) -> dg.DagsterRun:
    @dg.op
    def nothing() -> None: ...

    @dg.job
    def a_job() -> None:
        nothing()

    return Workplace(home).instance.create_run_for_job(a_job, status=DagsterRunStatus.STARTED)


def peeked(home: Path, kind: str) -> list[str]:
    """The answer without Dagster."""
    workplace = Workplace(home)
    found = partitions(workplace, kind)
    assert "instance" not in vars(workplace)
    return found


def test_the_files_say_what_dagster_says(home: Path) -> None:
    instance = Workplace(home).instance
    for kind in ("crawl", "run", "unknown"):
        assert peeked(home, kind) == list(instance.get_dynamic_partitions(kind))
    instance.delete_dynamic_partition("crawl", "b@20260101T000000Z")
    assert peeked(home, "crawl") == ["a@20260102T000000Z"]


def test_a_run_under_way_is_seen(home: Path) -> None:
    assert no_run_is_under_way(Workplace(home))
    run = begin(home)
    assert not no_run_is_under_way(Workplace(home))
    Workplace(home).instance.report_run_failed(run)
    assert no_run_is_under_way(Workplace(home))


def test_what_is_not_as_expected_is_answered_by_dagster(home: Path) -> None:
    settings = home / "dagster/dagster.yaml"
    elsewhere = f"storage:\n  sqlite:\n    base_dir: {home / 'elsewhere'}\n"
    before = settings.read_text()
    settings.write_text(before + elsewhere)
    workplace = Workplace(home)
    assert partitions(workplace, "crawl") == []
    assert "instance" in vars(workplace)
    assert not no_run_is_under_way(Workplace(home))
    settings.write_text(before)
    with sqlite3.connect(home / "dagster/history/runs/index.db") as database:
        database.execute("ALTER TABLE dynamic_partitions RENAME COLUMN partition TO key")
    workplace = Workplace(home)
    with pytest.raises(Exception, match="partition"):
        partitions(workplace, "crawl")
