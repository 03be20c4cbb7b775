"""Where the time of a test run went: seconds per folder, and the files that took longest."""

from __future__ import annotations

from collections import defaultdict

import pytest

LONGEST = 12


def tell_seconds(terminalreporter: pytest.TerminalReporter) -> None:
    """Sum over set-up, call and tear-down; with several workers the sum is more than the time that passed."""
    folders: defaultdict[str, float] = defaultdict(float)
    files: defaultdict[str, float] = defaultdict(float)
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                path = report.nodeid.split("::")[0]
                files[path] += report.duration
                folders[path.rpartition("/")[0]] += report.duration
    if sum(folders.values()) < LONGEST:  # a few quick tests: nobody asks
        return
    for title, table, rows in (("seconds per folder", folders, None), ("longest files", files, LONGEST)):
        terminalreporter.section(title)
        for name, seconds in sorted(table.items(), key=lambda row: -row[1])[:rows]:
            terminalreporter.line(f"{seconds:7.0f}  {name}")
