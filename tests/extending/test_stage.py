"""Stages added by the steps of docs/extending/stage.md, in a copy of the repository: commands, schedules, sensors, the
snapshot of the graph and the docs take them in. They are a chain that goes back and forth between crawls and global assets:

    extracted_documents · crawl -> page_labels -> page_model -> page_scores · crawl -> corpus
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.harness import REPOSITORY

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


def blocks() -> dict[str, str]:
    """File -> what the guide puts there."""
    text = (REPOSITORY / "docs/extending/stage.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^```python (\S+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository with three more stages."""
    root = tmp_path_factory.mktemp("extended") / "headwater"
    ignored = shutil.ignore_patterns(".git", ".venv", ".headwater*", "__pycache__", ".*_cache", "node_modules")
    shutil.copytree(REPOSITORY, root, ignore=ignored, symlinks=True)
    guide = blocks()
    insert(root / "orchestration/stages.py", guide["orchestration/stages.py"], before="    # --- dedup:")
    replace(
        root / "orchestration/stages.py",
        '"duplicate_clusters", "contamination"\n        ),',
        '"duplicate_clusters", "contamination", "page_scores"\n        ),',
    )
    append(root / "assets/schemas.py", guide["assets/schemas.py"])
    (root / "assets/documents/page_scores.py").write_text(guide["assets/documents/page_scores.py"])
    append(root / "assets/documents/defs.py", guide["assets/documents/defs.py"])
    first = '    Limit("raw_crawl", "every_start_url_was_fetched"'
    insert(root / "quality/thresholds.py", guide["quality/thresholds.py"], before=first)
    return root


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{path.name} has {old!r} {text.count(old)} times"
    path.write_text(text.replace(old, new), encoding="utf-8")


def insert(path: Path, text: str, *, before: str) -> None:
    replace(path, before, text + before)


def append(path: Path, text: str) -> None:
    path.write_text(f"{path.read_text(encoding='utf-8')}\n\n{text}", encoding="utf-8")


def python(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([sys.executable, *arguments], cwd=root, env=environment, capture_output=True, text=True)


def nights(root: Path, how: str, folder: Path) -> dict[str, Any]:
    """What sensors and schedules asked for, and what was not fresh when they had come to rest."""
    done = python(root, "-c", NIGHTS, how, str(folder))
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.rpartition("SAID ")[2])


def test_run_follows_the_edges_from_an_empty_home_and_sensors_go_on(extended: Path, tmp_path: Path) -> None:
    said = nights(extended, "run", tmp_path / "home")
    assert said["needing"] == [[], [], []], "after the run, and after each night"
    assert "page_scores" in said["jobs"]["crawl_job"]
    assert {"page_labels", "page_model"} <= set(said["jobs"]["curate_job"])
    crawls = [assets for job, _, assets in said["asked"] if job == "crawl_job" and len(assets) != 1]
    assert crawls[-1] == [] or "raw_crawl" in crawls[-1], "the model is there: a night's crawl is scored in one go"


def test_schedules_and_sensors_alone_build_it_from_nothing(extended: Path, tmp_path: Path) -> None:
    said = nights(extended, "ticks", tmp_path / "home")
    assert said["needing"] == [[], []]
    order = [(job, name) for job, _, assets in said["asked"] for name in assets]
    assert order.index(("curate_job", "page_model")) < order.index(("crawl_job", "page_scores"))
    assert order.index(("crawl_job", "page_scores")) < order.index(("curate_job", "corpus"))


def test_docs_and_snapshot_see_the_new_stages_and_take_them_in(extended: Path) -> None:
    assert python(extended, "docs/generate.py", "--check").returncode == 1
    graph = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_graph.py")
    before = python(extended, *graph)
    assert before.returncode == 1
    assert "page_scores" in before.stdout
    assert python(extended, "docs/generate.py").returncode == 0
    assert python(extended, *graph, "--snapshot-update").returncode == 0
    assert python(extended, "docs/generate.py", "--check").returncode == 0
    after = python(extended, *graph)
    assert after.returncode == 0, after.stdout[-2000:]
    assert "page_scores" in (extended / "README.md").read_text(encoding="utf-8")
