"""kill -9 in each group of the graph, then the same command again: equal data, no orphans."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestration.stages import GROUPS
from tests.campaigns.kills import kill_chain, one_per_group
from tests.end_to_end.harness import Home
from tests.shared_build import Built

pytestmark = pytest.mark.slow


@pytest.mark.timeout(900)
def test_killed_in_each_group_the_data_comes_out_equal(built: Built, tmp_path: Path) -> None:
    home = Home.create(tmp_path / "killed", built.home.port)
    seconds = {row["asset"]: row["seconds"] / row["partitions"] for row in built.summary["assets"]}
    rows = kill_chain(home, one_per_group(), seconds)
    assert {row.group for row in rows if row.killed} == set(GROUPS)
    assert [row for row in rows if row.orphans] == []
    assert home.versions() == built.home.versions()
