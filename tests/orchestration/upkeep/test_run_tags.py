"""What a run was planned on stays as long as its tag: a lost tag is told, stops gc, and is written again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestration.cli.app import app
from orchestration.identity.digest import MANIFEST
from orchestration.store import open_store
from orchestration.store.contract import MAIN, VersionedStore
from orchestration.store.git import maintenance
from orchestration.upkeep.run_tags import restore_run_tags, untagged_runs

RUN = "tiny@20260101T000000Z"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VersionedStore:
    """A home whose store has one planned run; main no longer holds what it was planned on."""
    monkeypatch.setenv("HEADWATER_HOME", str(tmp_path))
    monkeypatch.setattr(maintenance, "GRACE_S", -1.0)
    store = open_store(tmp_path / "store.git")
    pin = store.commit(MAIN, {"corpus/data": b"planned on"}, message="data")
    manifest = {"format": 1, "asset": "mixture_manifest", "partition": RUN, "version": "v", "files": {}, "pin": pin}
    path = f"mixture/mixture_manifest/{RUN}/{MANIFEST}"
    store.commit(MAIN, {path: json.dumps(manifest).encode()}, ["corpus/"], message="planned")
    store.tag(f"run/{RUN}", pin, "planned on")
    return store


def pin_of(store: VersionedStore) -> str:
    return store.resolve("main~1")


def lose(tmp_path: Path) -> None:
    (tmp_path / "store.git/refs/tags/run" / RUN).unlink()


def test_verify_tells_of_a_published_run_without_its_tag(store: VersionedStore, tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["verify"]).exit_code == 0
    lose(tmp_path)
    done = CliRunner().invoke(app, ["verify", "--json"])
    assert done.exit_code == 3
    assert [(each["kind"], each["sha256"]) for each in json.loads(done.output)["damage"]] == [
        ("ref", f"refs/tags/run/{RUN}")
    ]


@pytest.mark.parametrize("how", ["lost", "emptied"])
def test_gc_deletes_nothing_while_a_run_has_no_tag(store: VersionedStore, tmp_path: Path, how: str) -> None:
    lose(tmp_path)
    if how == "emptied":
        (tmp_path / "store.git/refs/tags/run" / RUN).touch()
    done = CliRunner().invoke(app, ["gc", "--keep-days", "0"])
    assert done.exit_code == 1
    assert "headwater repair" in done.output
    assert store.read_bytes(pin_of(store), "corpus/data") == b"planned on"


def test_the_tag_is_written_again_as_the_manifest_says(store: VersionedStore, tmp_path: Path) -> None:
    lose(tmp_path)
    assert list(untagged_runs(store)) == [RUN]
    assert restore_run_tags(store) == [
        f"tag run/{RUN}: written again, at {pin_of(store)[:12]}, as the manifest of the run says"
    ]
    assert store.tags()[f"run/{RUN}"] == pin_of(store)
    assert CliRunner().invoke(app, ["gc", "--keep-days", "0"]).exit_code == 0
    assert store.read_bytes(pin_of(store), "corpus/data") == b"planned on"
