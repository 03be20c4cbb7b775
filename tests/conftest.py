"""One whole build of the test site, shared by the tests that only look at it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.harness import STAMP, Home
from tests.end_to_end.site import make_site, serve
from tests.skips import pytest_runtest_makereport as pytest_runtest_makereport

LONG_FIRST = ("tests/end_to_end/", "tests/test_docs", "tests/training/", "tests/test_equality_law")
"""Files that take minutes. Begun last, one of them would keep one worker busy and the others idle."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order of the files; inside a file nothing changes."""

    def place(item: pytest.Item) -> int:
        return next((n for n, begin in enumerate(LONG_FIRST) if item.nodeid.startswith(begin)), len(LONG_FIRST))

    items.sort(key=place)


@dataclass(frozen=True)
class Built:
    """A finished build: its home, the site behind it, and what the command said."""

    home: Home
    site: Path
    summary: dict[str, Any]


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """The test site on a free port, for the whole session."""
    root = make_site(tmp_path_factory.mktemp("site") / "site")
    with serve(root) as port:
        yield root, port


@pytest.fixture(scope="session")
def built(served: tuple[Path, int], tmp_path_factory: pytest.TempPathFactory) -> Built:
    """`headwater run` on the test site, from nothing to the audit. Look, do not touch: use `copy_of` to change it."""
    root, port = served
    home = Home.create(tmp_path_factory.mktemp("built"), port)
    return Built(home, root, home.json("run", "--recipe", "tiny", "--at", STAMP))


@pytest.fixture
def copy_of_built(built: Built, tmp_path: Path) -> Home:
    """A home of one's own with the same state."""
    return built.home.copy(tmp_path / "copy")
