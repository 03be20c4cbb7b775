"""Warns of results that are older than a change of the code they measure.

    python -m benchmarks.stale

Each result file names its code (`code`) and its commit. A warning is no failure: measuring again takes hours, and most
changes move no figure; but who reads the figure should know.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.results import RESULTS, ROOT, read


def changes_since(commit: str, code: list[str], repository: Path = ROOT) -> list[str] | None:
    """Commits after this one that change the code, newest first; None where the history does not reach it."""
    places = [*code, *_earlier_places(commit, code, repository)]
    done = _git(repository, "log", "--format=%h %cs %s", f"{commit}..HEAD", "--", *places)
    return done.stdout.splitlines() if done.returncode == 0 else None


def _earlier_places(commit: str, code: list[str], repository: Path) -> list[str]:
    """Where files of the code stood at the commit, as far as that is elsewhere: a moved file has its changes there."""
    done = _git(repository, "diff", "-M", "-l0", "--diff-filter=R", "--name-status", commit, "HEAD")
    moves = [line.split("\t")[1:] for line in done.stdout.splitlines()]
    return [old for old, new in moves if any(new == place or new.startswith(f"{place}/") for place in code)]


def _git(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=repository, capture_output=True, text=True)


def warnings(folder: Path = RESULTS, repository: Path = ROOT) -> list[str]:
    """A line for each result that is old, or of code that nobody can look up."""
    found = []
    for path in sorted(folder.glob("*.json")):
        file = read(path.stem, folder)
        commit = file["commit"] or file["recorded_in"]["commit"]
        changes = changes_since(commit, file["code"], repository)
        if changes is None:
            found.append(f"{path.stem}: commit {commit[:12]} is not in this history")
        elif changes:
            found.append(f"{path.stem}: changes of its code since: {len(changes)}, the last {changes[0]}")
        if file["uncommitted"]:
            found.append(f"{path.stem}: measured with uncommitted changes of {', '.join(file['uncommitted'])}")
        found += [f"{path.stem}: MISSED {g['goal']}, {g['measured']:g}" for g in file["goals"] if not g["met"]]
    return found


def main() -> int:
    """Print the warnings; always 0."""
    for line in warnings():
        print(f"warning: docs/results/{line}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
