"""One fault of each kind in a re-crawl and its build: a slice of `make campaign-faults`."""

from __future__ import annotations

import shutil
import subprocess
import sys
from itertools import pairwise

import pytest

from tests.campaigns.faults import CALLS, Point, spread
from tests.end_to_end.harness import REPOSITORY

pytestmark = pytest.mark.slow


@pytest.mark.timeout(900)
@pytest.mark.skipif(not shutil.which("strace"), reason="faults are injected by strace: apt-get install strace")
def test_a_failed_call_leaves_nothing_behind_that_a_plain_re_run_does_not_mend() -> None:
    command = [sys.executable, "-m", "tests.campaigns.faults", "--points", "11"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "11 faults, 11 met, 0 problems" in done.stdout


def test_points_are_every_call_where_there_are_few_and_spread_evenly_where_many() -> None:
    calls = {"fsync": 400, "rename": 100, "write": 1000, "connect": 5, "crawler write": 50}
    points = spread(calls, 500)
    assert [p.nth for p in points if (p.call, p.effect) == ("connect", "KILL")] == [1, 2, 3, 4, 5]
    writes = [point.nth for point in points if (point.call, point.effect) == ("write", "ENOSPC")]
    assert (writes[0], writes[-1]) == (1, 1000)
    gaps = [after - before for before, after in pairwise(writes)]
    assert max(gaps) <= 2 * min(gaps)
    assert len(points) <= 500
    assert {(point.call, point.effect) for point in points} == {(k, e) for k, (_, es) in CALLS.items() for e in es}
    assert Point("connect", "ETIMEDOUT", 3) in points
