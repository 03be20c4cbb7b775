"""A changed recipe makes exactly the right assets stale, says why, and stops what is downstream."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from orchestration.stages import STAGES, downstream
from tests.end_to_end.harness import REPOSITORY, STAMP, Home

pytestmark = pytest.mark.slow

MATERIALISE = """
import sys
from dagster import AssetKey
from orchestration.graph.definitions import defs
from orchestration.process.workplace import open_workplace
name, job, partition, tags = sys.argv[1], sys.argv[2], sys.argv[3] or None, dict(t.split("=") for t in sys.argv[4:])
result = defs.resolve_job_def(job).execute_in_process(
    instance=open_workplace().instance, partition_key=partition, asset_selection=[AssetKey(name)], tags=tags, raise_on_error=False)
for event in result.all_events:
    if event.is_step_failure:
        print(event.step_failure_data.user_failure_data.description)
sys.exit(0 if result.success else 9)
"""


def stale(home: Home) -> set[str]:
    return {label.partition("[")[0] for label, state in home.states().items() if state != "fresh"}


def names_downstream(*assets: str) -> set[str]:
    return set(assets) | {stage.name for asset in assets for stage in downstream(asset)}


def test_one_threshold_makes_its_asset_and_what_follows_stale(copy_of_built: Home) -> None:
    home = copy_of_built
    home.edit_recipe("curation", "threshold = 0.8", "threshold = 0.85")
    assert stale(home) == names_downstream("duplicate_clusters")
    items = home.json("status", expect=3)["items"]
    causes = {item["asset"]: item["causes"] for item in items}
    assert causes["duplicate_clusters"] == ["config.dedup.threshold changed: 0.8 -> 0.85"]
    assert "upstream duplicate_clusters is stale" in causes["corpus"]
    assert causes["tokenizer_sample"] == ["recipe upstream changed: corpus"]

    refused = dagster_job(home, "corpus", "curate_job")
    assert refused.returncode == 9
    assert "refuses to build on stale input" in refused.stdout
    assert "duplicate_clusters is stale" in refused.stdout
    forced = dagster_job(home, "corpus", "curate_job", "headwater/allow_stale=true")
    assert forced.returncode == 0, forced.stdout + forced.stderr

    built = home.json("run", "--recipe", "tiny", "--no-train")["built"]
    assert "duplicate_clusters" in built
    assert "document_signatures" not in built


def test_an_evaluation_setting_stales_the_evaluation_only_and_the_run_goes_on(copy_of_built: Home) -> None:
    home = copy_of_built
    home.edit_recipe("tiny", "max_tokens_per_cell = 1000", "max_tokens_per_cell = 900")
    assert stale(home) == {"perplexity", "release_card"}  # the lineage records what is published, and waits
    home.headwater("run", "--recipe", "tiny")
    assert set(home.states().values()) == {"fresh"}
    assert {label for label in home.states() if label.startswith("base_checkpoints")} == {
        f"base_checkpoints[tiny@{STAMP}]"
    }


def test_what_a_run_is_bound_to_and_what_a_crawl_saw_are_never_replaced(copy_of_built: Home) -> None:
    home, run = copy_of_built, f"tiny@{STAMP}"
    before = home.versions()
    home.edit_recipe("tiny", "decay_steps = 4", "decay_steps = 6")
    refused = dagster_job(home, "mixture_manifest", "pretrain_job", partition=run)
    assert refused.returncode == 9
    assert "never replaced" in refused.stdout
    assert "config.training.decay_steps changed: 4 -> 6" in refused.stdout
    sources = home.config / "sources.toml"
    sources.write_text(sources.read_text(encoding="utf-8").replace("delay_s = 0", "delay_s = 0\nmax_pages = 3"))
    kept = dagster_job(home, "raw_crawl", "crawl_job", partition=f"site@{STAMP}")
    assert kept.returncode == 0, kept.stdout + kept.stderr
    assert home.versions() == before


def test_a_missing_segment_is_missing_and_stops_what_is_downstream(copy_of_built: Home) -> None:
    from orchestration.store import open_store

    store = open_store(copy_of_built.state / "store.git")
    store.commit("main", {}, ["tokenizer/tokenizer/"], message="lose the tokenizer")
    states = copy_of_built.states()
    assert states["tokenizer[]"] == "missing"
    assert states["token_shards[]"] == "stale"
    refused = dagster_job(copy_of_built, "token_shards", "curate_job")
    assert "upstream tokenizer is missing" in refused.stdout
    copy_of_built.headwater("run", "--recipe", "tiny")
    assert copy_of_built.states()["token_shards[]"] == "fresh"


def test_an_edited_comment_makes_nothing_stale_and_edited_code_does(copy_of_built: Home, tmp_path: Path) -> None:
    code = tmp_path / "code"
    for package in ("orchestration", "assets", "quality", "training"):
        shutil.copytree(REPOSITORY / package, code / package, ignore=shutil.ignore_patterns("__pycache__"))
    module = code / "assets/tokenizer/report.py"
    first = "from __future__ import annotations\n"
    text = module.read_text(encoding="utf-8")
    module.write_text(text.replace(first, first + "# an edited comment\n", 1), encoding="utf-8")
    assert status_exit_code(copy_of_built, code) == 0
    module.write_text(text.replace(first, first + "EDITED = True\n", 1), encoding="utf-8")
    assert status_exit_code(copy_of_built, code) == 3


def test_every_asset_is_downstream_of_the_crawl() -> None:
    assert names_downstream("raw_crawl") == {stage.name for stage in STAGES}


def status_exit_code(home: Home, code: Path) -> int:
    command = [sys.executable, "-m", "orchestration.cli", "status"]
    return subprocess.run(command, cwd=code, env=home.env(), capture_output=True, check=False).returncode


def dagster_job(home: Home, asset: str, job: str, *tags: str, partition: str = "") -> subprocess.CompletedProcess[str]:
    """Materialise one asset through a Dagster job, as the UI does."""
    command = [sys.executable, "-c", MATERIALISE, asset, job, partition, *tags]
    environment = home.env() | {"DAGSTER_HOME": str(home.state / "dagster")}
    return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
