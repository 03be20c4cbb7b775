"""One whole build of the test site, shared by the tests that only look at it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.harness import Home
from tests.seconds import tell_seconds
from tests.shared_build import Built, built_once, the_site
from tests.shared_build import pytest_configure_node as pytest_configure_node
from tests.skips import count_skips
from tests.skips import pytest_runtest_makereport as pytest_runtest_makereport

LONG_FIRST = (
    "tests/end_to_end/test_bad_machines",
    "tests/end_to_end/test_whole_graph",
    "tests/orchestration/publish/test_blocked_ways_out",
    "tests/training/",
    "tests/end_to_end/",
    "tests/test_equality_law",
    "tests/orchestration/store/test_processes",
    "tests/test_docs",
)
"""Files that take minutes. Begun last, one of them would keep one worker busy and the others idle. The first to need
the whole build makes it; what comes next does not need it, so that nobody waits."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Where the time went, and what was not run."""
    tell_seconds(terminalreporter)
    count_skips(terminalreporter)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order of the files; inside a file nothing changes."""

    def place(item: pytest.Item) -> int:
        return next((n for n, begin in enumerate(LONG_FIRST) if item.nodeid.startswith(begin)), len(LONG_FIRST))

    items.sort(key=place)


@pytest.fixture(scope="session")
def served(request: pytest.FixtureRequest) -> Iterator[tuple[Path, int]]:
    """The test site on a free port, for the whole session."""
    with the_site(request.config) as found:
        yield found


@pytest.fixture(scope="session")
def built(request: pytest.FixtureRequest, served: tuple[Path, int], tmp_path_factory: pytest.TempPathFactory) -> Built:
    """`headwater run` on the test site, from nothing to the audit. Look, do not touch: use `copy_of` to change it."""
    own = tmp_path_factory.getbasetemp()
    of_all = own.parent if hasattr(request.config, "workerinput") else own
    return built_once(*served, of_all / "shared-build", own / "built")


@pytest.fixture
def copy_of_built(built: Built, tmp_path: Path) -> Home:
    """A home of one's own with the same state."""
    return built.home.copy(tmp_path / "copy")
