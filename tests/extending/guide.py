"""The guides of docs/extending, followed in a copy of the repository: what a guide shows is what its test adds.

A block names its file after the language. `diff` is an edit of that file: lines with a blank before them are what
stands there, once in the file, `-` goes and `+` comes. Any other block is a new file, or the end of one that is there.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.end_to_end.harness import REPOSITORY

GUIDES = REPOSITORY / "docs/extending"
FENCE = re.compile(r"^```(\w*) ?(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LEFT_OUT = (".git", ".venv", ".headwater*", "__pycache__", ".*_cache", "node_modules")


@dataclass(frozen=True)
class Block:
    """One piece of a guide that goes into a file."""

    language: str
    file: str
    text: str


def blocks(guide: str) -> list[Block]:
    """In the order of the page."""
    found = FENCE.findall((GUIDES / guide).read_text(encoding="utf-8"))
    return [Block(language, file, text) for language, file, text in found if file]


def commands(guide: str) -> list[str]:
    """What the guide types, a line each, without the remark beside it."""
    found = FENCE.findall((GUIDES / guide).read_text(encoding="utf-8"))
    lines = [line for language, _, text in found if language == "sh" for line in text.splitlines()]
    return [re.split(r"\s+# ", line)[0].strip() for line in lines if line.strip()]


def extended(folder: Path, guide: str) -> Path:
    """A copy of the repository with every block of the guide in its place."""
    root = folder / "headwater"
    shutil.copytree(REPOSITORY, root, ignore=shutil.ignore_patterns(*LEFT_OUT), symlinks=True)
    found = blocks(guide)
    assert found, f"docs/extending/{guide} has no block that names a file"
    for block in found:
        apply(root, block)
    return root


def apply(root: Path, block: Block) -> None:
    """Put one block where it says."""
    path = root / block.file
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    if block.language != "diff":
        path.write_text(f"{before}\n\n{block.text}" if before else block.text, encoding="utf-8")
        return
    lines = block.text.splitlines(keepends=True)
    wrong = [line for line in lines if line[0] not in " +-\n"]
    assert not wrong, f"{block.file}: a line of a diff begins with a blank, + or -: {wrong[0]!r}"
    old, new = ("".join(line[1:] or "\n" for line in lines if line[0] != other) for other in "+-")
    assert before.count(old) == 1, f"{block.file} has this {before.count(old)} times, not once:\n{old}"
    path.write_text(before.replace(old, new), encoding="utf-8")


def python(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python in the copy, with the copy's modules."""
    environment = os.environ | {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([sys.executable, *arguments], cwd=root, env=environment, capture_output=True, text=True)


def passes(root: Path, *arguments: str) -> str:
    """What pytest prints for these tests of the copy, all of which pass."""
    done = python(root, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments)
    assert done.returncode == 0, f"{done.stdout[-3000:]}{done.stderr[-1000:]}"
    return done.stdout
