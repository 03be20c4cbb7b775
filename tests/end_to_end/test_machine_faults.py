"""One failed read, refused mapping and killed child of each kind: a slice of `make campaign-machine-faults`."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from tests.campaigns.children import Child
from tests.campaigns.machine_faults import PLAN, TRAINED, WANTED, planned, spread
from tests.end_to_end.harness import REPOSITORY


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not shutil.which("strace"), reason="faults are injected by strace: apt-get install strace")
def test_the_machines_faults_leave_nothing_behind_that_the_same_command_does_not_mend() -> None:
    command = [sys.executable, "-m", "tests.campaigns.machine_faults", "--slice"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(planned(0, slice_only=True))} faults" in done.stdout
    assert "0 problems" in done.stdout


def test_the_campaign_has_every_kind_of_child_and_enough_faults() -> None:
    assert sum(PLAN.values()) >= WANTED
    assert {kind for kind, effect in PLAN if effect == "KILL"} >= {"sandbox", "worker", "crawler", "rank"}
    assert {kind for kind, effect in PLAN if effect == "FREEZE"} >= {"sandbox", "worker", "crawler", "rank"}
    assert {effect for kind, effect in PLAN if kind == "read"} == {"EIO", "ENOMEM"}


def test_points_are_spread_over_calls_over_children_and_over_their_lives() -> None:
    assert [point.nth for point in spread("read", "EIO", 4, {"read": 1001}, [])] == [126, 376, 626, 876]
    seen = [Child("worker", 0, 1), Child("sandbox", 0, 1), Child("sandbox", 1, 2)]
    found = [(point.nth, point.share) for point in spread("sandbox", "KILL", 6, {}, seen)]
    assert found == [(1, 0.5), (2, 0.5), (1, 0.1), (2, 0.1), (1, 0.9), (2, 0.9)]
    assert [point.share for point in spread(TRAINED[0], "KILL", 2, {}, [])] == [0.25, 0.75]
