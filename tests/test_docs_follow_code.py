"""What the docs say of the code by name is what the code has: filter rules, the road of a page."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from assets.documents.recipe import REASONS
from orchestration.stages import STAGES
from tests.end_to_end.harness import REPOSITORY
from tests.test_import_rules import imports_of

DOCS = REPOSITORY / "docs"
ROAD = (DOCS / "path-of-a-page.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`((?:assets|training|orchestration)/[\w/]+\.py)`", ROAD)))
ABOVE = {
    "assets/lineage/queries.py": "orchestration/cli/app.py",
    "orchestration/stages.py": "orchestration/graph/definitions.py",
    "orchestration/publish/publisher.py": "orchestration/graph/definitions.py",
    "orchestration/graph/definitions.py": "orchestration/cli/app.py",
    "orchestration/launch/trainer.py": "orchestration/graph/definitions.py",
}
"""What the page names and no build function calls -> what does: what stands around the build functions, and the command."""


def test_the_table_of_filter_rules_has_every_drop_reason_in_the_order_they_are_asked() -> None:
    pages = [page for page in DOCS.rglob("*.md") if "<!-- filter-rules -->" in page.read_text(encoding="utf-8")]
    assert len(pages) == 1, "one page has the table"
    table = pages[0].read_text(encoding="utf-8").partition("<!-- filter-rules -->")[2].partition("<!-- /")[0]
    assert list(dict.fromkeys(re.findall(r"^\| `(\w+)`", table, re.MULTILINE))) == list(REASONS)


@cache
def imported_by(path: str) -> list[str]:
    """Files of ours that one file imports: at its top, or in a function."""
    found = imports_of((REPOSITORY / path).read_text(encoding="utf-8"), ".".join(Path(path).parent.parts))
    names = {name for each in found for name in (each.module, each.module.rpartition(".")[0])}
    files = [f"{name.replace('.', '/')}.py" for name in names]
    return [file for file in files if (REPOSITORY / file).is_file()]


def reached(*roots: str) -> set[str]:
    """Files of ours that these files import, directly or through others."""
    found, ahead = set(), list(roots)
    while ahead:
        path = ahead.pop()
        if path not in found:
            found.add(path)
            ahead += imported_by(path)
    return found


@pytest.fixture(scope="module")
def of_build_functions() -> set[str]:
    """What the build functions reach, and the program that training starts."""
    roots = {f"assets/{stage.group}/defs.py" for stage in STAGES}
    return reached(*roots, *(f"{name.replace('.', '/')}.py" for stage in STAGES for name in stage.modules))


@pytest.mark.parametrize("path", NAMED)
def test_every_module_on_the_road_of_a_page_is_reached_from_a_build_function(
    path: str, of_build_functions: set[str]
) -> None:
    assert path in (reached(ABOVE[path]) if path in ABOVE else of_build_functions)


def test_only_what_no_build_function_reaches_is_an_exception(of_build_functions: set[str]) -> None:
    assert set(ABOVE) <= set(NAMED)
    assert not set(ABOVE) & of_build_functions


def test_a_module_that_nothing_imports_would_be_noticed(of_build_functions: set[str]) -> None:
    assert len(NAMED) > 15
    assert "assets/documents/standalone.py" not in of_build_functions
