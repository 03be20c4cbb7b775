"""docs/extending/check.md, followed in a copy: the checks are in the graph, one blocks with a way out, one only informs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from orchestration.identity.catalog import read_catalog
from orchestration.store import open_store
from tests.end_to_end.harness import Home
from tests.extending.guide import commands, extended, passes, python
from tests.extending.homes import PAGES, small_home

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

WALL = "Before you go on, please agree that we may keep a record of what you read. It is the same for every address of the site."
CHECKS = ("pages_are_not_one_page", "few_addresses_share_a_page")
REPEATED = 8
"""Pages that look like a wall, but are a third of the site."""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return extended(tmp_path_factory.mktemp("extended"), "check.md")


def put_up_wall(home: Home, pages: int) -> None:
    for number in range(pages):
        (home.root / "site" / f"{number:02d}.txt").write_text(WALL * 3, encoding="utf-8")


def crawls(home: Home) -> dict[str, dict[str, Any]]:
    """Crawl -> name of a new check -> its verdict, of what is on main."""
    catalog = read_catalog(open_store(str(home.state / "store.git")))
    return {
        key: {
            check["name"]: check for check in catalog.manifests["raw_crawl", key]["checks"] if check["name"] in CHECKS
        }
        for key in catalog.partitions("raw_crawl")
    }


def test_a_wall_is_kept_off_main_a_repeated_page_is_told_and_the_message_leads_on(copy: Path, tmp_path: Path) -> None:
    home = small_home(tmp_path / "home")
    home.repository = copy
    put_up_wall(home, REPEATED)
    home.headwater("run", "--no-train", "--at", "20260101T000000Z")
    (verdicts,) = crawls(home).values()
    assert {name: verdict["passed"] for name, verdict in verdicts.items()} == {CHECKS[0]: True, CHECKS[1]: False}
    assert f"{REPEATED} of {PAGES} addresses" in verdicts[CHECKS[0]]["description"]

    put_up_wall(home, PAGES - 1)
    (typed,) = [line for line in commands("check.md") if line.startswith("headwater run")]
    failed = home.headwater(*shlex.split(typed)[1:], "--no-train", "--at", "20260102T000000Z", expect=1)
    said = " ".join((failed.stdout + failed.stderr).split())
    assert f"pages_are_not_one_page: {PAGES - 1} of {PAGES} addresses gave the very same bytes (at most 50%)" in said
    assert list(crawls(home)) == ["site@20260101T000000Z"], "nothing was published"

    assert "(headwater diff main" in said
    (command,) = (found for found in re.findall(r"`(headwater run [^`]+)`", said) if "--accept-yield" in found)
    assert command == "headwater run --recrawl site --accept-yield site"
    home.headwater(*shlex.split(command)[1:], "--no-train", "--at", "20260103T000000Z", expect=None)
    accepted = crawls(home)["site@20260102T000000Z"]
    assert not accepted[CHECKS[0]]["passed"], "a person overruled it, and the manifest keeps the verdict"


def test_graph_and_ways_out_take_the_checks_in(copy: Path) -> None:
    before = python(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_graph.py")
    assert before.returncode == 1 and "pages_are_not_one_page (blocking)" in before.stdout
    assert python(copy, "-m", "pytest", "-q", "tests/test_graph.py", "--snapshot-update").returncode == 0
    passes(copy, "tests/test_graph.py")
    passes(copy, "tests/orchestration/publish/test_blocked_ways_out.py::test_every_blocking_check_is_tried")
    assert python(copy, "docs/generate.py", "--check").returncode == 0
