"""The docs do not lie: what is generated is up to date, links lead somewhere, commands run."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.harness import REPOSITORY
from tests.shared_build import Built

PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")])
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#]+)")
CODE = re.compile(r"`([a-z_]+/[\w./-]+\.(?:py|toml|md))`")
CONSOLE = re.compile(r"^\$ headwater (.+)$", re.MULTILINE)
SUBJECTS = {"sect.apt-get.html": "page-001.html", "debian-reference-zh": "site", "demo": "tiny"}
"""What the docs ask about the demo, in terms of the test site."""


def commands() -> list[str]:
    return sorted({match for page in PAGES for match in CONSOLE.findall(page.read_text(encoding="utf-8"))})


def test_generated_parts_are_up_to_date() -> None:
    result = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, f"{result.stdout}{result.stderr}: run `python docs/generate.py`"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_and_named_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    missing = [link for link in LINK.findall(text) if not (page.parent / link).exists()]
    missing += [name for name in CODE.findall(text) if not (REPOSITORY / name).exists()]
    assert missing == []


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md", "CONTRIBUTING.md"])
def test_the_first_pages_say_how_to_test(name: str) -> None:
    text = (REPOSITORY / name).read_text(encoding="utf-8")
    assert "make check" in text and "make test" in text


def test_make_targets_in_the_docs_exist() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    named = {t for page in PAGES for t in re.findall(r"\bmake ([a-z][a-z-]+)\b", page.read_text(encoding="utf-8"))}
    named -= {"it", "them", "venv's", "sense", "nothing", "a", "campaign-"}
    assert {t for t in named if not re.search(rf"^{t}:", makefile, re.MULTILINE)} == set()


@pytest.mark.parametrize("command", commands())
def test_commands_run(command: str, built: Built, tmp_path: Path) -> None:
    if command == "run":
        command = "run --recipe tiny"
    subjects = SUBJECTS | {"my-model": str(tmp_path / "my-model")}
    arguments = [subjects.get(part, part) for part in shlex.split(command)]
    if arguments[0] == "plan":
        arguments += ["--recipe", "tiny"]
    result = built.home.headwater(*arguments, expect=None)
    assert result.returncode in (0, 3), result.stderr
    assert "Traceback" not in result.stderr
