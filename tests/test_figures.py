"""Documents quote what result files say, and a result that is older than its code is told."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import stale
from benchmarks.results import RESULTS
from docs import figures
from tests.end_to_end.harness import REPOSITORY

PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")])
NAMED = re.compile(r"(?:results/|make campaign-|benchmarks[./])(\w+)")
NUMBER = re.compile(r"(?<![\w#.])\d[\d,.]*(?!\w)")
MARKED = re.compile(r"<!--= .*?-->.*?<!--/-->", re.DOTALL)
NO_FIGURES = {"contributing.md", "CONTRIBUTING.md", "CHANGELOG.md", "checkpoints.md resume"}
"""Pages (or paragraphs on a result) that say what a campaign does and not what it found."""


def quote(path: str, form: str, shown: str = "?", name: str = "bench_dedup") -> str:
    return f"about <!--= {name} {path} :{form} -->{shown}<!--/--> times"


def test_a_marked_figure_is_what_the_result_file_says() -> None:
    recall = "rows[?what=='plain files'].recall"
    assert figures.rendered(quote(recall, ".2f", "0.93"), "page") == quote(recall, ".2f", "1.00")
    assert figures.rendered(quote(recall, "x1000x.0f"), "page") == quote(recall, "x1000x.0f", "1000")
    assert figures.rendered(quote("rows[1].documents", ","), "page") == quote("rows[1].documents", ",", "200,000")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (quote("rows[0].no_such_figure", "d"), "gives None"),
        (quote("rows[].cpu_s", "d"), "not a number"),
        (quote("rows[0", "d"), "page: <!--="),
        (quote("rows[0].cpu_s", "d", name="no_such_result"), "no_such_result"),
        ("about <!--= bench_dedup rows[0].cpu_s -->3<!--/--> s", "not of the form"),
        ("<!--= bench_dedup rows[0].cpu_s :.0f -->3<!--/--> s", "must not begin with a mark"),
    ],
)
def test_a_mark_that_no_result_answers_is_an_error(text: str, says: str) -> None:
    with pytest.raises(figures.FigureError, match=re.escape(says)):
        figures.rendered(text, "page")


def paragraphs() -> list[Any]:
    """Every paragraph (with the table or list that follows it) that names a result file or its command."""
    found = []
    for page in PAGES:
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for part in re.split(r"\n\n(?![|<])", text):
            named = {each for name in NAMED.findall(part) for each in (name, name.removeprefix("bench_"))}
            names = {name for name in named if (RESULTS / f"{name}.json").exists()}
            found += [pytest.param(part, name, id=f"{page.name} {name}") for name in sorted(names)]
    return [case for case in found if not {case.id, str(case.id).partition(" ")[0]} & NO_FIGURES]


@pytest.mark.parametrize(("part", "name"), paragraphs())
def test_a_paragraph_on_a_result_quotes_it_by_marks(part: str, name: str) -> None:
    """A figure typed by hand drifts: here is at least a mark or a table of the result that the paragraph names."""
    assert not NUMBER.search(MARKED.sub("", part)) or name in figures.quoted(part)


def test_the_check_fails_and_says_what_the_page_should_say(tmp_path: Path) -> None:
    for name in ("assets", "orchestration", "quality", "benchmarks", "docs"):
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "pictures"))
    for path in REPOSITORY.glob("*.md"):
        shutil.copy(path, tmp_path)

    def check() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "docs/generate.py", "--check"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    assert check().returncode == 0
    page = tmp_path / "docs/stages/dedup.md"
    page.write_text(
        page.read_text(encoding="utf-8").replace("| full build | ", "| full build | 1", 1), encoding="utf-8"
    )
    done = check()
    assert done.returncode == 1
    assert "docs/stages/dedup.md says" in done.stdout and "out of date: docs/stages/dedup.md" in done.stdout


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_result_older_than_a_change_of_its_code_is_told(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    for name in ("measured.py", "other.py"):
        (tmp_path / name).write_text("a line that stays\n" * 9 + "1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    results = tmp_path / "results"
    results.mkdir()
    goal = {"goal": "seconds of a thing", "measured": 3.0, "met": True}
    file: dict[str, Any] = {"code": ["measured.py"], "uncommitted": [], "goals": [goal]}
    file["commit"] = git(tmp_path, "rev-parse", "HEAD")

    def told() -> list[str]:
        (results / "thing.json").write_text(json.dumps(file))
        return stale.warnings(results, tmp_path)

    (tmp_path / "other.py").write_text("2")
    git(tmp_path, "commit", "-qam", "another file")
    assert told() == []
    (tmp_path / "measured.py").write_text("a line that stays\n" * 9 + "2")
    git(tmp_path, "commit", "-qam", "faster")
    (warning,) = told()
    assert "changes of its code since: 1, the last" in warning and warning.endswith("faster")
    git(tmp_path, "mv", "measured.py", "moved.py")
    git(tmp_path, "commit", "-qm", "another place")
    file["code"] = ["moved.py"]
    assert "changes of its code since: 2, the last" in told()[0], "what happened before the move counts, too"
    file["commit"] = "0" * 40
    assert "is not in this history" in told()[0]
    file |= {"commit": git(tmp_path, "rev-parse", "HEAD"), "uncommitted": ["moved.py"]}
    goal["met"] = False
    assert told() == ["thing: measured with uncommitted changes of moved.py", "thing: MISSED seconds of a thing, 3"]
