"""docs/extending/source-kind.md, followed in a copy: the kind is imported, built, and crawled again for its delta."""

from __future__ import annotations

import json
import shlex
from html import escape
from pathlib import Path
from typing import Any

import pytest

from orchestration.identity.catalog import read_catalog
from orchestration.store import open_store
from tests.end_to_end.harness import REPOSITORY, Home
from tests.end_to_end.site import body
from tests.extending.guide import commands, extended, passes, python
from tests.extending.homes import small_home

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

QUESTIONS = 8


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return extended(tmp_path_factory.mktemp("extended"), "source-kind.md")


def write_dump(path: Path, keys: dict[int, str]) -> None:
    """A dump with a post for each id, its text made of the key."""
    rows = []
    for number, key in sorted(keys.items()):
        html = escape("".join(f"<p>{text}</p>" for text in body("en", key)), quote=True)
        rows.append(
            f'  <row Id="{number}" PostTypeId="1" CreationDate="2026-01-01T10:00:00.000" Score="1" Title="{key}" Body="{html}" />'
        )
    path.write_text(
        "\n".join(['<?xml version="1.0" encoding="utf-8"?>', "<posts>", *rows, "</posts>", ""]), encoding="utf-8"
    )


def report(home: Home, asset: str) -> dict[str, Any]:
    """Of the newest crawl of the new source."""
    catalog = read_catalog(open_store(str(home.state / "store.git")))
    newest = max(key for key in catalog.partitions(asset) if key.startswith("unix@"))
    return catalog.manifests[asset, newest]["report"]


def test_the_kind_is_imported_built_and_crawled_again(copy: Path, tmp_path: Path) -> None:
    home = small_home(tmp_path / "home")
    home.repository = copy
    posts = {number: f"question-{number}" for number in range(QUESTIONS)}
    write_dump(copy / "Posts.xml", posts)
    imported, built, again, _ = [line for line in commands("source-kind.md") if line.startswith("headwater ")]
    home.headwater(*shlex.split(imported)[1:], "--at", "20260101T000000Z")
    home.headwater(*shlex.split(built)[1:], "--no-train", "--at", "20260102T000000Z")
    assert report(home, "raw_crawl")["documents_kept"] == QUESTIONS
    assert report(home, "filtered_documents")["documents_kept"] == QUESTIONS

    write_dump(copy / "Posts.xml", {**posts, 0: "another text", QUESTIONS: "a new question"} | {1: "question-1"})
    home.headwater(*shlex.split(again)[1:], "--no-train", "--at", "20260103T000000Z")
    changes = {"added": 1, "changed": 1, "removed": 0, "unchanged": QUESTIONS - 1}
    assert report(home, "crawl_delta")["stats"]["changes"] == changes
    assert report(home, "raw_crawl")["stats"]["revisits"]["identical_payload"] == QUESTIONS - 1
    assert report(home, "extracted_documents")["documents_in"] == 2, "only what changed is read"

    home.headwater("export", "corpus#documents", str(tmp_path / "corpus.jsonl"))
    urls = {row["url"] for row in map(json.loads, (tmp_path / "corpus.jsonl").read_text().splitlines())}
    assert {f"https://unix.stackexchange.com/questions/{number}" for number in range(QUESTIONS + 1)} <= urls


def test_a_key_that_it_does_not_have_is_refused_with_those_it_has(copy: Path, tmp_path: Path) -> None:
    home = small_home(tmp_path / "home")
    home.repository = copy
    typed = next(line for line in commands("source-kind.md") if line.startswith("headwater import"))
    failed = home.headwater(*shlex.split(typed.replace("site=", "host="))[1:], expect=1)
    assert "unix" in failed.stderr and "min_score" in failed.stderr and "site" in failed.stderr


def test_only_the_crawl_itself_has_another_code_and_its_own_tests_pass(copy: Path) -> None:
    def codes(root: Path) -> dict[str, str]:
        done = python(root, "-m", "orchestration.cli", "equivalence", "codes", "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    before, after = codes(REPOSITORY), codes(copy)
    assert {name for name in before if before[name] != after[name]} == {"raw_crawl"}
    passes(copy, "tests/assets/sources/bulk/test_stack_exchange.py", "tests/test_import_rules.py")
    assert python(copy, "docs/generate.py", "--check").returncode == 0
