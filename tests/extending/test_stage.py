"""Stages added by the steps of docs/extending/stage.md, in a copy of the repository: commands, schedules, sensors, the
snapshot of the graph and the docs take them in. They are a chain that goes back and forth between crawls and global assets:

    extracted_documents · crawl -> page_labels -> page_model -> page_scores · crawl -> corpus
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.extending.guide import extended, python

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NIGHTS = """
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from orchestration.stages import JOBS
from tests.orchestration.nights import Nights

how, folder = sys.argv[1], Path(sys.argv[2])
nights = Nights.create(folder, pytest.MonkeyPatch(), "alpha")
said = {"asked": [], "needing": [], "jobs": JOBS}


def until_quiet():
    for _ in range(8):
        asked = []
        for sensor in ("build_what_is_stale", "index_new_runs"):
            tick = nights.tick(sensor)
            asked += tick.asked
            assert all(tick.execute()), tick.errors
        if not asked:
            break
        said["asked"] += asked
    said["needing"].append([item.label for item in nights.status().needing() if item.asset in built])


built = {name for job in ("crawl_job", "curate_job") for name in JOBS[job]}
if how == "run":
    nights.run(at="20260101T000000Z")
    until_quiet()
for night in (2, 3):
    nights.write("alpha", 0, f"en {90 + night}")
    tick = nights.tick("recrawl_alpha", at=datetime(2026, 1, night, 3, tzinfo=UTC))
    said["asked"] += tick.asked
    assert all(tick.execute()), tick.errors
    until_quiet()
print("SAID " + json.dumps(said))
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository with three more stages."""
    return extended(tmp_path_factory.mktemp("extended"), "stage.md")


def nights(root: Path, how: str, folder: Path) -> dict[str, Any]:
    """What sensors and schedules asked for, and what was not fresh when they had come to rest."""
    done = python(root, "-c", NIGHTS, how, str(folder))
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.rpartition("SAID ")[2])


def test_run_follows_the_edges_from_an_empty_home_and_sensors_go_on(copy: Path, tmp_path: Path) -> None:
    said = nights(copy, "run", tmp_path / "home")
    assert said["needing"] == [[], [], []], "after the run, and after each night"
    assert "page_scores" in said["jobs"]["crawl_job"]
    assert {"page_labels", "page_model"} <= set(said["jobs"]["curate_job"])
    crawls = [assets for job, _, assets in said["asked"] if job == "crawl_job" and len(assets) != 1]
    assert crawls[-1] == [] or "raw_crawl" in crawls[-1], "the model is there: a night's crawl is scored in one go"


def test_schedules_and_sensors_alone_build_it_from_nothing(copy: Path, tmp_path: Path) -> None:
    said = nights(copy, "ticks", tmp_path / "home")
    assert said["needing"] == [[], []]
    order = [(job, name) for job, _, assets in said["asked"] for name in assets]
    assert order.index(("curate_job", "page_model")) < order.index(("crawl_job", "page_scores"))
    assert order.index(("crawl_job", "page_scores")) < order.index(("curate_job", "corpus"))


def test_docs_and_snapshot_see_the_new_stages_and_take_them_in(copy: Path) -> None:
    assert python(copy, "docs/generate.py", "--check").returncode == 1
    graph = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_graph.py")
    before = python(copy, *graph)
    assert before.returncode == 1
    assert "page_scores" in before.stdout
    assert python(copy, "docs/generate.py").returncode == 0
    assert python(copy, *graph, "--snapshot-update").returncode == 0
    assert python(copy, "docs/generate.py", "--check").returncode == 0
    after = python(copy, *graph)
    assert after.returncode == 0, after.stdout[-2000:]
    assert "page_scores" in (copy / "README.md").read_text(encoding="utf-8")
