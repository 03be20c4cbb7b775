"""Result files can be believed: one writer, one shape, verdicts that follow from the rows, no figure without a judge."""

from __future__ import annotations

import importlib
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field
from syrupy.assertion import SnapshotAssertion

from benchmarks import results
from benchmarks.results import RESULTS, Goal, Result, command_line, execution, finish, read, unjudged, why
from tests.end_to_end.harness import REPOSITORY

WRITERS = {path.stem: f"benchmarks.{path.stem}" for path in (REPOSITORY / "benchmarks").glob("bench_*.py")}
WRITERS["many_segments"] = WRITERS.pop("bench_many_segments")
WRITERS |= {name: f"tests.campaigns.{name}" for name in ("executors", "faults", "goodput", "histories", "incidents")}
WRITERS |= {"machine_faults": "tests.campaigns.machine_faults"}
WRITERS |= {name: f"tests.campaigns.{name}" for name in ("kills", "layouts", "memory", "resume", "store_faults")}
WRITERS |= {"sources": "tests.campaigns.source_kinds", "bad_input": "tests.campaigns.bad_pages"}
WRITERS |= {"store_s3": "tests.campaigns.s3", "demo": "benchmarks.demo_run"}
"""Result file -> the module whose `result_of` judges its rows."""

FILES = sorted(path.stem for path in RESULTS.glob("*.json"))
OF_AN_EXECUTION = ("commit", "date", "machine", "command")


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class GoalOfFile(Strict):
    goal: str = Field(min_length=4)
    asked: str = Field(pattern=r"^(>=|<=) [-0-9.e]+$")
    measured: float
    met: bool
    of: list[str]
    missed: list[str] = []


class RecordedIn(Strict):
    """For files older than this shape: the commit that added them, which is no later than the code they measured."""

    commit: str = Field(pattern=r"^[0-9a-f]{40}$")
    date: str = Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
    why: str = Field(min_length=10)


class ResultFile(Strict):
    name: str
    code: list[str] = Field(min_length=1)
    goals: list[GoalOfFile] = Field(min_length=1)
    not_judged: dict[str, str]
    figures: dict[str, Any]
    rows: list[dict[str, Any]]
    commit: str | None = Field(pattern=r"^[0-9a-f]{40}$")
    uncommitted: list[str] | None
    date: str | None = Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
    machine: str | None = Field(min_length=5)
    load_at_start: float | None = None
    command: str | None = Field(pattern=r"^python ")
    recorded_in: RecordedIn | None = None


@pytest.mark.parametrize("name", FILES)
def test_a_result_file_has_the_one_shape(name: str) -> None:
    file = ResultFile.model_validate(read(name))
    assert file.name == name
    assert file.rows or file.figures
    assert [path for path in file.code if not (REPOSITORY / path).exists()] == []
    unknown = [part for part in OF_AN_EXECUTION if getattr(file, part) is None]
    assert bool(unknown) == (file.recorded_in is not None), unknown
    if file.recorded_in:
        assert [part for part in unknown if part not in file.recorded_in.why] == []


@pytest.mark.parametrize("name", FILES)
def test_verdicts_follow_from_the_rows_by_the_goals_of_now(name: str) -> None:
    """A goal that is changed after a miss is not met by an old file, nor by one that was edited."""
    file = read(name)
    result = importlib.import_module(WRITERS[name]).result_of(file["rows"], file["figures"])
    for part, found in result.findings().items():
        assert file[part] == found, f"{part} of {name}.json is not what its rows give: run its command again"


def test_goals_are_those_that_were_asked_for(snapshot: SnapshotAssertion) -> None:
    """A line that changes here is a goal that changes: only an issue changes one, never a result that missed it."""
    lines = [f"{name}: {goal['goal']} {goal['asked']}" for name in FILES for goal in read(name)["goals"]]
    assert "\n".join(lines) == snapshot


def test_goals_once_changed_after_a_miss_are_back() -> None:
    asked = {goal["goal"]: goal for name in ("bench_dedup", "many_segments") for goal in read(name)["goals"]}
    template = asked["search per page of one template at 4 times the pages"]
    assert (template["asked"], template["missed"]) == ("<= 2", ["2.168 at 3ca51a2ae8eb"])
    readings = [goal for name, goal in asked.items() if name.endswith("1000 crawls of 25 / one crawl of as many")]
    assert len(readings) == 4
    assert {goal["asked"] for goal in readings} == {"<= 1.5"}
    assert {goal["asked"] for name, goal in asked.items() if name.startswith("seconds for catalog")} == {"<= 1"}


@pytest.mark.parametrize("name", FILES)
def test_every_figure_is_judged_or_says_why_not(name: str) -> None:
    assert unjudged(read(name)) == []


def test_every_benchmark_and_campaign_writes_through_the_one_writer() -> None:
    programs = [*(REPOSITORY / "benchmarks").glob("*.py"), *(REPOSITORY / "tests/campaigns").glob("*.py")]
    sources = {
        path: path.read_text(encoding="utf-8") for path in programs if path.name not in ("results.py", "stale.py")
    }
    judging = {path.relative_to(REPOSITORY) for path, text in sources.items() if "def result_of(" in text}
    assert judging == {Path(module.replace(".", "/") + ".py") for module in WRITERS.values()}
    saying = {path.relative_to(REPOSITORY) for path, text in sources.items() if "docs/results/" in text}
    assert saying <= judging
    writes = re.compile(r"""docs/results["'/][^.\n]*["']|["']docs["'] / ["']results["']""")
    assert [path for path, text in sources.items() if writes.search(text)] == []


def some_result(measured: float, rows: list[dict[str, Any]], **not_judged: str) -> Result:
    goals = [Goal("seconds of a thing", measured, "<=", 2.0, ("seconds",))]
    return Result("thing", ("benchmarks/results.py",), goals, rows, {}, not_judged)


def test_the_writer_says_what_was_measured_where_and_how(tmp_path: Path) -> None:
    assert finish(some_result(1.5, [{"seconds": 1.5}]), tmp_path) == 0
    file = ResultFile.model_validate(read("thing", tmp_path))
    assert (file.goals[0].met, file.goals[0].asked, file.recorded_in) == (True, "<= 2", None)
    assert all(getattr(file, part) for part in OF_AN_EXECUTION)
    assert file.load_at_start is not None
    assert finish(some_result(2.5, [{"seconds": 2.5}]), tmp_path) == 1
    assert read("thing", tmp_path)["goals"][0]["met"] is False
    assert finish(some_result(2.5, []), tmp_path / "none", write=False) == 1
    assert not (tmp_path / "none").exists()


def test_what_is_not_a_number_meets_no_goal() -> None:
    assert not Goal("a", math.nan, "<=", 1, ()).met
    assert not Goal("a", math.nan, ">=", 1, ()).met


def test_a_figure_without_a_judge_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"seconds": 1.0, "what": "a"}, {"seconds": 1.0, "bytes": 5, "good": True, "parts": {"a": 1}}]
    finish(some_result(1.0, rows), tmp_path)
    assert unjudged(read("thing", tmp_path)) == ["bytes", "parts"]
    assert "nothing judges the figure bytes" in capsys.readouterr().out
    finish(some_result(1.0, rows, **why("no limit was asked for", "bytes", "parts")), tmp_path)
    assert unjudged(read("thing", tmp_path)) == []


def test_an_uncommitted_change_of_the_measured_code_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "ROOT", tmp_path)
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    (tmp_path / "stage.py").write_text("x")
    assert execution(["stage.py"])["uncommitted"] == ["stage.py"]
    assert execution(["other.py"])["uncommitted"] == []


def test_the_command_is_what_a_reader_types(monkeypatch: pytest.MonkeyPatch) -> None:
    class Main:
        __spec__ = importlib.util.spec_from_loader("benchmarks.bench_store", None)

    monkeypatch.setitem(sys.modules, "__main__", Main)
    monkeypatch.setattr(sys, "argv", ["/somewhere/bench_store.py", "--files", "10"])
    assert command_line() == "python -m benchmarks.bench_store --files 10"


def test_a_result_is_plain_json() -> None:
    found = some_result(1.0, [{"seconds": 1.0}]).findings()
    assert json.loads(json.dumps(found)) == found
