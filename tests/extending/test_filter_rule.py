"""docs/extending/filter-rule.md, followed in a copy: the rule drops what it should, and only that, wherever drops are told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.end_to_end.harness import Home
from tests.extending.guide import commands, extended, passes, python
from tests.extending.homes import small_home

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

LOREM = """Welcome to our new site. This page is about the company and the people that work with it.
Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor incididunt ut labore et dolore magna.
The team has been here for many years, and all of them have learned to be patient with the weather."""
QUOTED = """A page about the craft of setting type. Before the words of a book are written, the printer fills the page with
a text that nobody reads, to see how the lines and the margins look. It begins with the words lorem ipsum, and it has been used
for some hundred years. Whoever sees it in a finished book knows that somebody forgot to replace it with what was meant."""
"""What looks like it: the two words stand in a page about them."""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return extended(tmp_path_factory.mktemp("extended"), "filter-rule.md")


def write_pages(folder: Path) -> None:
    (folder / "template.txt").write_text(LOREM, encoding="utf-8")
    (folder / "typography.txt").write_text(QUOTED, encoding="utf-8")


def test_the_rule_drops_the_page_in_a_home_that_was_built_before_it(copy: Path, tmp_path: Path) -> None:
    home = small_home(tmp_path / "home")
    write_pages(home.root / "site")
    home.headwater("run", "--no-train")
    before = home.versions()
    now = Home(home.root, 0, dict(home.environment), repository=copy)

    planned = {step["asset"] for step in now.json("plan", "--no-train")["steps"]}
    assert "filtered_documents" in planned
    assert not planned & {"raw_crawl", "crawl_delta", "extracted_documents"}, "nothing is read again"

    said = now.json("run", "--no-train")
    (row,) = [row for row in said["assets"] if row["asset"] == "filtered_documents"]
    assert row["dropped"] == {"placeholder_text": 1}
    unchanged = {key for key, version in now.versions().items() if before.get(key) == version}
    assert {key.partition("[")[0] for key in unchanged} >= {"raw_crawl", "extracted_documents"}

    now.headwater("export", "corpus#decisions", str(tmp_path / "fates.jsonl"))
    fates = {
        row["url"]: row["drop_reason"] for row in map(json.loads, (tmp_path / "fates.jsonl").read_text().splitlines())
    }
    assert fates["file:///site/template.txt"] == "placeholder_text"
    assert fates["file:///site/typography.txt"] is None


def test_the_rule_can_be_tried_on_plain_files(copy: Path, tmp_path: Path) -> None:
    pages = [{"id": "template", "text": LOREM}, {"id": "typography", "text": QUOTED}]
    (tmp_path / "pages.jsonl").write_text("".join(json.dumps(page) + "\n" for page in pages), encoding="utf-8")
    for typed, dropped in zip(
        [line for line in commands("filter-rule.md") if line.startswith("headwater stage")],
        (
            {"template": "placeholder_text", "typography": None},
            dict.fromkeys(("template", "typography"), "placeholder_text"),
        ),
        strict=True,
    ):
        words = [str(tmp_path / word) if word in ("pages.jsonl", "tried", "strict") else word for word in typed.split()]
        done = python(copy, "-m", "orchestration.cli", *words[1:])
        assert done.returncode == 0, done.stderr
        decisions = (Path(words[words.index("--output") + 1]) / "decisions.jsonl").read_text().splitlines()
        assert {row["id"]: row["drop_reason"] for row in map(json.loads, decisions)} == dropped


def test_examples_and_docs_take_the_reason_in(copy: Path) -> None:
    (page,) = (p for p in (copy / "docs").rglob("*.md") if "<!-- filter-rules -->" in p.read_text(encoding="utf-8"))
    assert "placeholder_text" not in page.read_text(encoding="utf-8")
    assert python(copy, "docs/generate.py", "--check").returncode == 1
    assert python(copy, "docs/generate.py").returncode == 0
    (row,) = [line for line in page.read_text(encoding="utf-8").splitlines() if "`placeholder_text`" in line]
    assert "at most 0.05" in row and "C4 drops any" in row
    passes(copy, "tests/assets/documents/test_filters.py", "tests/test_docs_follow_code.py")
