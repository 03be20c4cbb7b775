"""On a machine that has every package the tests ask for, a test that is skipped for want of one is a failure.

`make test` installs the packages where it may and sets HEADWATER_TEST_PACKAGES=installed. A skip for want of a package says so with the
words "apt-get install"; other skips (not root, many minutes) stay skips. All are listed with their reasons (`-rs`),
and those for want of a package are counted.
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator

import pytest

SAYS = "apt-get install"
VARIABLE = "HEADWATER_TEST_PACKAGES"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn such a skip into a failure with its reason."""
    report = yield
    if report.skipped and isinstance(report.longrepr, tuple) and os.environ.get(VARIABLE) == "installed":
        path, line, reason = report.longrepr
        if SAYS in reason:
            report.outcome = "failed"
            report.longrepr = f"{path}:{line}: {reason}\n{VARIABLE} says that every package is installed"
    return report


def count_skips(terminalreporter: pytest.TerminalReporter) -> None:
    """How many tests were not run for want of a package."""
    skipped = [report for report in terminalreporter.stats.get("skipped", []) if SAYS in str(report.longrepr)]
    if skipped:
        wanted = sorted({word for report in skipped for word in _packages(str(report.longrepr))})
        terminalreporter.section("not run")
        terminalreporter.line(f"{len(skipped)} tests need what is not installed here: {SAYS} {' '.join(wanted)}")


def _packages(reason: str) -> list[str]:
    return re.findall(r"[\w.+-]+", reason.rpartition(SAYS)[2])
