"""What other runs offer to a build: of the same code, the newest first, and nothing that breaks it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from assets.build import BuildError
from orchestration.identity.catalog import read_catalog
from orchestration.identity.digest import MANIFEST
from orchestration.identity.fingerprint import Identity
from orchestration.publish.earlier_builds import others_of
from orchestration.stages import BY_NAME
from orchestration.store import open_store

STAGE = BY_NAME["base_checkpoints"]
FOLDER = "training/base_checkpoints"


def test_runs_of_the_same_code_are_offered_and_a_damaged_file_is_a_build_error(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store.git"))
    for day, code in enumerate(("same", "other", "same"), start=1):
        manifest = {
            "format": 1,
            "asset": STAGE.name,
            "partition": f"demo@2026010{day}T000000Z",
            "version": f"v{day}",
            "identity": {"code": code, "libraries": {"torch": "2"}},
            "files": {"metrics.jsonl": 3, "layers.jsonl": 3},
            "created_at": f"2026-01-0{day}T00:00:00+00:00",
        }
        folder = f"{FOLDER}/{manifest['partition']}/"
        files = {MANIFEST: json.dumps(manifest).encode(), "metrics.jsonl": b"m %d" % day, "layers.jsonl": b"l %d" % day}
        store.commit("main", {folder + name: content for name, content in files.items()}, message="x")
    wanted = Identity({}, "same", {}, {"torch": "2"}, {}, {})
    offered = others_of(store, STAGE, "demo@20260109T000000Z", read_catalog(store), wanted)
    assert [segment.version for segment in offered] == ["v3", "v1"]
    assert [s.version for s in others_of(store, STAGE, "demo@20260103T000000Z", read_catalog(store), wanted)] == ["v1"]
    assert offered[0].path("metrics.jsonl").read_bytes() == b"m 3"
    damaged = store.local_path("main", f"{FOLDER}/demo@20260103T000000Z/layers.jsonl")
    damaged.chmod(0o644)
    damaged.write_bytes(b"xxx")
    with pytest.raises(BuildError, match="another SHA-256"):
        offered[0].path("layers.jsonl")
    store.purge([store.stat("main", f"{FOLDER}/demo@20260101T000000Z/layers.jsonl").sha256], reason="asked for")
    with pytest.raises(BuildError, match="asked for"):
        offered[1].path("layers.jsonl")
