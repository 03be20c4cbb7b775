"""The one writer of result files, docs/results/NAME.json: what was asked, what was measured, by which code, where and when.

A result names the code it measures, so that a change of that code shows that it is old (benchmarks/stale.py). Every
figure it records is judged by a goal (`of`) or says in `not_judged` why none does. `read` is for those who quote it.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"
LOAD_AT_START = round(os.getloadavg()[0], 1)
"""Processes that wanted a core in the minute before this program began: what else the machine was doing."""


@dataclass(frozen=True)
class Goal:
    """A limit as it was asked for, and what was measured. A goal that was once missed says so for good (`missed`)."""

    goal: str
    measured: float
    sign: str
    """>= or <=."""
    limit: float
    of: tuple[str, ...]
    """The figures of rows and of `figures` that it judges."""
    missed: tuple[str, ...] = ()
    """Earlier results that missed it: measured figure and commit."""

    @property
    def met(self) -> bool:
        """The verdict; what is not a number meets nothing."""
        return self.measured >= self.limit if self.sign == ">=" else self.measured <= self.limit

    def as_json(self) -> dict[str, Any]:
        """As the result file has it."""
        content = {"goal": self.goal, "asked": f"{self.sign} {self.limit:g}", "measured": float(f"{self.measured:.6g}")}
        content |= {"met": self.met, "of": list(self.of)}
        return content | ({"missed": list(self.missed)} if self.missed else {})


@dataclass(frozen=True)
class Result:
    """What a benchmark or campaign found."""

    name: str
    code: tuple[str, ...]
    """Files and folders of the repository whose change makes the result old."""
    goals: Sequence[Goal]
    rows: Sequence[dict[str, Any]]
    figures: dict[str, Any] = field(default_factory=dict)
    """What belongs to no row."""
    not_judged: dict[str, str] = field(default_factory=dict)
    """Figure -> why no goal judges it."""

    def findings(self) -> dict[str, Any]:
        """What a reading of the same rows always gives; the rest of the file is of one execution."""
        goals = [goal.as_json() for goal in self.goals]
        found = {"goals": goals, "not_judged": self.not_judged, "figures": self.figures, "rows": list(self.rows)}
        return json.loads(json.dumps({"code": list(self.code)} | found))


def finish(result: Result, folder: Path = RESULTS, *, write: bool = True) -> int:
    """Print the goals, write the file; the exit status is 1 where a goal was missed."""
    for goal in result.goals:
        print(
            f"{goal.goal:<62} {goal.measured:>10.5g}   asked {goal.sign} {goal.limit:<8g} {'ok' if goal.met else 'MISSED'}"
        )
    content = {"name": result.name} | result.findings() | execution(result.code)
    for name in unjudged(content):
        print(f"WARNING: nothing judges the figure {name}, and not_judged does not say why")
    if write:
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(content, indent=1, ensure_ascii=False)
        text = re.sub(r"\n {4,}([-0-9.e]+,?)(?=\n)", r" \1", text)  # numbers of a list on one line
        (folder / f"{result.name}.json").write_text(text + "\n", encoding="utf-8")
    return 0 if all(goal.met for goal in result.goals) else 1


def execution(code: Sequence[str]) -> dict[str, Any]:
    """Commit, uncommitted changes of the measured code, date, machine and command of this process."""
    changed = [line[3:] for line in _git("status", "--porcelain", "--", *code).splitlines()]
    memory = f"{psutil.virtual_memory().total >> 30} GiB"
    return {
        "commit": _git("rev-parse", "HEAD").strip(),
        "uncommitted": changed,
        "date": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {memory}, Python {platform.python_version()}",
        "load_at_start": LOAD_AT_START,
        "command": command_line(),
    }


def command_line() -> str:
    """What a reader types to run this program again, from the repository's root."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = ["-m", spec.name] if spec else [Path(sys.argv[0]).name]
    return shlex.join(["python", *program, *sys.argv[1:]])


def unjudged(content: dict[str, Any]) -> list[str]:
    """Figures of a result file that no goal judges and `not_judged` does not mention; counted by name, over all rows."""
    numbers = {name for row in content["rows"] for name, value in row.items() if has_number(value)}
    numbers |= {name for name, value in content["figures"].items() if has_number(value)}
    return sorted(numbers - {name for goal in content["goals"] for name in goal["of"]} - set(content["not_judged"]))


def has_number(value: Any) -> bool:
    """Whether a value is or holds a number; yes and no are answers, not figures."""
    if isinstance(value, dict | list):
        return any(has_number(part) for part in (value.values() if isinstance(value, dict) else value))
    return isinstance(value, int | float) and not isinstance(value, bool)


def why(reason: str, *figures: str) -> dict[str, str]:
    """Figures that no goal judges, for one reason."""
    return dict.fromkeys(figures, reason)


def read(name: str, folder: Path = RESULTS) -> dict[str, Any]:
    """A result file."""
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


def _git(*arguments: str) -> str:
    """Nothing where Git or the repository is missing: hours of measuring are not lost for it, but the file is refused."""
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout
