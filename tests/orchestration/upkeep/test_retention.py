"""Old runs let go of their optimiser's states; what lineage names and what a tag keeps stays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestration.identity.catalog import read_catalog
from orchestration.identity.digest import DIGESTS, MANIFEST
from orchestration.store import open_store
from orchestration.store.contract import MAIN, LostRaceError, VersionedStore
from orchestration.store.git import maintenance
from orchestration.upkeep.retention import DroppedStates, drop_states, older_runs
from training.checkpoints.files import drop_state

RUNS = [f"{recipe}@2026010{day}T000000Z" for recipe in ("one", "two") for day in (1, 2, 3)]
STEPS = ("step-00000004", "step-00000008")


def checkpoint(run: str, step: str) -> dict[str, bytes]:
    state, model = f"state of {run} {step}".encode() * 9, f"model of {run} {step}".encode()
    files = {"dcp/__0_0.distcp": {"bytes": len(state)}, "hf/model.safetensors": {"bytes": len(model)}}
    marker = json.dumps({"step": int(step[-8:]), "files": files}).encode()
    return {"dcp/__0_0.distcp": state, "hf/model.safetensors": model, "complete.json": marker}


def publish(store: VersionedStore, run: str) -> None:
    files = {f"checkpoints/{step}/{name}": content for step in STEPS for name, content in checkpoint(run, step).items()}
    manifest: dict[str, Any] = {
        "format": 1,
        "asset": "base_checkpoints",
        "partition": run,
        "version": f"version of {run}",
        "files": {name: len(content) for name, content in files.items()},
        "bytes": sum(map(len, files.values())),
    }
    about = {MANIFEST: manifest, DIGESTS: {name: {"sha256": "0"} for name in files}}
    put = files | {name: json.dumps(content).encode() for name, content in about.items()}
    store.commit(MAIN, {f"training/base_checkpoints/{run}/{name}": each for name, each in put.items()}, message=run)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VersionedStore:
    monkeypatch.setattr(maintenance, "GRACE_S", -1.0)  # objects of the last hour are kept otherwise
    opened = open_store(str(tmp_path / "store.git"))
    for run in RUNS:
        publish(opened, run)
    return opened


def paths(store: VersionedStore, ref: str, word: str) -> list[str]:
    return sorted(info.path.split("/")[2] for info in store.list(ref, "training/") if f"/{word}/" in info.path)


def test_the_newest_runs_of_each_recipe_stay_resumable() -> None:
    assert older_runs(RUNS, 1) == [*RUNS[:2], *RUNS[3:5]]
    assert older_runs(RUNS, 3) == []
    assert older_runs(RUNS, 0) == RUNS


def test_models_stay_and_states_go_once_no_tag_holds_them(store: VersionedStore) -> None:
    store.tag("released", MAIN)
    before = {key: manifest["version"] for key, manifest in read_catalog(store).manifests.items()}
    assert drop_states(store, read_catalog(store), 2, dry_run=True) == drop_states(store, read_catalog(store), 2)
    assert paths(store, MAIN, "hf") == sorted(RUNS * 2)
    assert paths(store, MAIN, "dcp") == sorted([*RUNS[1:3], *RUNS[4:]] * 2)
    catalog = read_catalog(store)
    assert {key: manifest["version"] for key, manifest in catalog.manifests.items()} == before
    manifest = catalog.manifests["base_checkpoints", RUNS[0]]
    folder = f"training/base_checkpoints/{RUNS[0]}/"
    for name, size in manifest["files"].items():
        assert store.stat(MAIN, folder + name).size_bytes == size
    store.gc(keep_days=0)
    assert paths(store, "released", "dcp") == sorted(RUNS * 2)
    assert store.read_bytes("released", folder + f"checkpoints/{STEPS[0]}/dcp/__0_0.distcp")
    assert drop_states(store, catalog, 2) == [], "nothing is left to let go of"


def test_bytes_come_back_without_a_tag(store: VersionedStore) -> None:
    dropped = drop_states(store, read_catalog(store), 2)
    assert [each.run for each in dropped] == [RUNS[0], RUNS[3]]
    assert store.gc(keep_days=0).deleted_bytes >= sum(each.bytes for each in dropped)
    assert isinstance(dropped[0], DroppedStates)
    assert dropped[0].checkpoints == len(STEPS)


def test_the_marker_is_the_one_that_the_training_program_would_leave(store: VersionedStore, tmp_path: Path) -> None:
    folder = tmp_path / STEPS[0]
    for name, content in checkpoint(RUNS[0], STEPS[0]).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    drop_state(folder)
    drop_states(store, read_catalog(store), 0)
    path = f"training/base_checkpoints/{RUNS[0]}/checkpoints/{STEPS[0]}/complete.json"
    assert json.loads(store.read_bytes(MAIN, path)) == json.loads((folder / "complete.json").read_text())


def test_a_publication_in_between_is_not_lost(store: VersionedStore) -> None:
    catalog = read_catalog(store)
    publish(store, "three@20260101T000000Z")
    with pytest.raises(LostRaceError):
        drop_states(store, catalog, 0)
    assert len(paths(store, MAIN, "dcp")) == 2 * len(RUNS) + 2
