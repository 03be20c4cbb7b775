"""W&B beside the graph: its run's address in the UI, and the scores of an evaluated run sent to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg

from assets.evaluation.by_step import scores_by_step
from orchestration.identity.catalog import Catalog, prefix, read_catalog, segment
from orchestration.launch.board_facts import board_folder, wandb_record
from orchestration.launch.program import module_path
from orchestration.process.workplace import Workplace
from orchestration.publish.publisher import Publication
from orchestration.stages import BY_NAME
from training.contract.outputs import WANDB_RECORD

PROGRAM = "training.watching.add_scores"
PATIENCE_S = 300.0
"""W&B's own timeouts are shorter; on top, the files are hashed once."""
HASHED_BYTES_PER_S = 50e6
SENT = "scores_of"
"""In the record of the W&B run: version of the release card whose scores it has."""


def board_metadata(home: Path, run: str) -> dict[str, Any]:
    """Where a run is watched in W&B, for the UI; nothing where it is not."""
    record = wandb_record(home, run)
    if not record:
        return {}
    offline = f"offline, in `boards/{run}/wandb/` of HEADWATER_HOME; `wandb sync` of the runs in it sends it"
    return {"W&B run": dg.MetadataValue.url(record["url"]) if record["url"] else dg.MetadataValue.md(offline)}


def send_scores(workplace: Workplace, publication: Publication, warn: Callable[[str], None]) -> None:
    """Add what a release card's run scored to its W&B run, where the profile has that board; `warn` hears why it failed."""
    run, version = publication.manifest["partition"], publication.manifest["version"]
    record = wandb_record(workplace.home, run)
    if "wandb" not in workplace.config.profile.training.boards or record.get(SENT) == version:
        return
    catalog = read_catalog(workplace.store, publication.commit)
    patience_s = PATIENCE_S + catalog.manifests["base_checkpoints", run]["bytes"] / HASHED_BYTES_PER_S
    try:
        _add(scores_of(workplace, catalog, run), patience_s)
        path = board_folder(workplace.home, run) / WANDB_RECORD
        path.write_text(json.dumps(wandb_record(workplace.home, run) | {SENT: version}, indent=1) + "\n", "utf-8")
    except subprocess.TimeoutExpired:
        warn(f"the scores of {run} did not reach W&B in {patience_s:.0f} s")
    except (OSError, subprocess.CalledProcessError) as error:
        warn(f"the scores of {run} did not reach W&B: {_last_line(getattr(error, 'stderr', None) or str(error))}")


def _add(content: dict[str, Any], patience_s: float) -> None:
    subprocess.run(
        [sys.executable, "-m", PROGRAM],
        input=json.dumps(content),
        env=os.environ | {"PYTHONPATH": module_path()},
        capture_output=True,
        text=True,
        timeout=patience_s,
        check=True,
    )


def scores_of(workplace: Workplace, catalog: Catalog, run: str) -> dict[str, Any]:
    """What add_scores.py reads."""

    def rows(asset: str, table: str) -> list[dict[str, Any]]:
        return segment(workplace.store, catalog.commit, catalog.manifests[asset, run]).table(table).to_pylist()

    by_step = scores_by_step(
        rows("perplexity", "perplexity"), rows("probability_probes", "probes"), rows("needle_in_haystack", "needles")
    )
    checkpoints = [
        {
            "step": row["step"],
            "scores": by_step.get(row["step"], {}),
            "references": _references(workplace, catalog.commit, run, row["folder"]),
            "metadata": {
                "checkpoint": f"{run}/{row['step']}",
                "data_version": catalog.manifests["base_checkpoints", run]["version"],
                **{name: row[name] for name in ("tokens_seen", "parameters", "weights_sha256")},
            },
        }
        for row in rows("base_checkpoints", "checkpoints")
    ]
    return {"run": run, "folder": str(board_folder(workplace.home, run)), "checkpoints": checkpoints}


def _references(workplace: Workplace, commit: str, run: str, folder: str) -> dict[str, str]:
    """Name -> URI of the exported model's files: objects of a local store, addresses of a lakeFS."""
    here = f"{prefix(BY_NAME['base_checkpoints'], run)}{folder}/hf/"
    names = [info.path for info in workplace.store.list(commit, here)]
    place = workplace.store_place
    if "://" in place:
        return {name.removeprefix(here): f"{place.rstrip('/')}/{commit}/{name}" for name in names}
    return {name.removeprefix(here): workplace.store.local_path(commit, name).as_uri() for name in names}


def _last_line(text: str) -> str:
    """Of what the program said, without the key that it was given."""
    said = next((line for line in reversed(text.splitlines()) if line.strip()), "it said nothing")
    key = os.environ.get("WANDB_API_KEY")
    return said.replace(key, "***") if key else said
