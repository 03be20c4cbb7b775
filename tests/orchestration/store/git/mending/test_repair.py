"""A damaged store is mended from a clone, a mirror or a backup, or from what it still holds itself."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestration.cli.app import app
from orchestration.store import verify_store
from orchestration.store.contract import MAIN, StoreError
from orchestration.store.git.mending.repair import repair
from orchestration.store.git.store import GitStore
from tests.orchestration.store.conftest import damage

SIDE = "staged_on"
Damager = Callable[[Path], object]


def publish(store: GitStore, number: int) -> None:
    """What a build does."""
    branch = f"build/corpus/{number}"
    store.create_branch(branch)
    put = {f"corpus/{number}": b"page %d" % number, "newest": b"%d" % number}
    store.commit(branch, put, message="staged", metadata={SIDE: branch})
    store.merge(branch, message=f"publish {number}")
    store.delete_branch(branch)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A store with a history, two tags, a staged branch and a takedown."""
    folder = tmp_path / "store.git"
    store = GitStore.at(folder)
    for number in range(4):
        publish(store, number)
    store.tag("run/one", "main~1", "what a run was planned on")
    store.tag("release/1", "main")
    store.create_branch("build/open")
    store.commit("build/open", {"open": b"staged"}, message="staged", metadata={SIDE: "build/open"})
    store.purge([hashlib.sha256(b"page 0").hexdigest()], reason="law")
    return folder


def backup(place: Path) -> Path:
    """The folder, copied."""
    return Path(shutil.copytree(place, place.parent / "backup.git"))


def clone(place: Path) -> Path:
    """A work tree with its contents, by git and git-lfs."""
    target = place.parent / "clone"
    subprocess.run(
        ["git", "clone", "-q", f"file://{place}", str(target)],
        check=True,
        capture_output=True,
        env={"PATH": "/usr/bin:/bin", "HOME": str(place.parent), "GIT_LFS_SKIP_SMUDGE": "1"},
    )
    shutil.copytree(place / "lfs/objects", target / ".git/lfs/objects", dirs_exist_ok=True)
    return target


def object_files(place: Path) -> list[Path]:
    return sorted((place / "objects").glob("[0-9a-f][0-9a-f]/*"))


def lfs_file(place: Path, content: bytes) -> Path:
    return GitStore.at(place).lfs.path(hashlib.sha256(content).hexdigest())


def head_object(place: Path) -> Path:
    head = GitStore.at(place).resolve(MAIN)
    return place / "objects" / head[:2] / head[2:]


def older_commit(place: Path) -> Path:
    commit = GitStore.at(place).resolve("main~3")
    return place / "objects" / commit[:2] / commit[2:]


DAMAGES: dict[str, Damager] = {
    "an emptied tag": lambda place: damage(place / "refs/tags/run/one", b""),
    "a lost tag": lambda place: (place / "refs/tags/release/1").unlink(),
    "an emptied main": lambda place: damage(place / "refs/heads/main", b""),
    "a lost main": lambda place: (place / "refs/heads/main").unlink(),
    "an emptied branch": lambda place: damage(place / "refs/heads/build/open", b""),
    "an emptied HEAD": lambda place: damage(place / "HEAD", b""),
    "a lost HEAD": lambda place: (place / "HEAD").unlink(),
    "an emptied configuration": lambda place: damage(place / "config", b""),
    "a configuration of junk": lambda place: damage(place / "config", b"[["),
    "no refs at all": lambda place: shutil.rmtree(place / "refs"),
    "no locks": lambda place: shutil.rmtree(place / "headwater"),
    "the newest commit": lambda place: damage(head_object(place), b""),
    "a lost older commit": lambda place: older_commit(place).unlink(),
    "every Git object": lambda place: [damage(path, b"\0") for path in object_files(place)],
    "no Git objects": lambda place: shutil.rmtree(place / "objects"),
    "an altered content": lambda place: damage(lfs_file(place, b"page 2"), b"page X"),
    "a cut content": lambda place: damage(lfs_file(place, b"page 2"), b"pa"),
    "no contents": lambda place: shutil.rmtree(place / "lfs"),
}
FROM_ITSELF = [
    *("an emptied tag", "a lost tag", "an emptied main", "a lost main", "an emptied branch", "an emptied HEAD"),
    *("a lost HEAD", "an emptied configuration", "a configuration of junk", "no refs at all", "no locks"),
]


def state(place: Path) -> dict[str, object]:
    store = GitStore.at(place)
    contents = {ref: {info.path: info.sha256 for info in store.list(ref)} for ref in (*store.branches(), *store.tags())}
    return {"branches": store.branches(), "tags": store.tags(), "takedowns": store.takedowns(), "contents": contents}


@pytest.mark.parametrize("case", DAMAGES)
def test_a_backup_mends_everything(place: Path, case: str) -> None:
    before, source = state(place), backup(place)
    DAMAGES[case](place)
    report = repair(place, source, SIDE)
    assert (report.left, verify_store(place).damage) == ([], [])
    assert report.done
    assert state(place) == before
    publish(GitStore.at(place), 9)


@pytest.mark.parametrize("case", ["an emptied main", "every Git object", "an altered content", "an emptied tag"])
def test_a_clone_mends_what_it_has(place: Path, case: str) -> None:
    GitStore.at(place).delete_branch("build/open")
    before, source = state(place), clone(place)
    DAMAGES[case](place)
    assert repair(place, source, SIDE).left == []
    assert verify_store(place).damage == []
    assert state(place) == before


@pytest.mark.parametrize("case", FROM_ITSELF)
def test_refs_come_back_from_what_the_store_itself_holds(place: Path, case: str) -> None:
    before = state(place)
    DAMAGES[case](place)
    report = repair(place, None, SIDE)
    assert (report.left, verify_store(place).damage) == ([], [])
    if case == "no refs at all":  # nothing says of a branch that was not damaged but lost whether it was deleted
        GitStore.at(place).create_branch("build/open", str(dict(before["branches"])["build/open"]))  # type: ignore[call-overload]
    assert state(place) == before


def test_an_older_copy_does_not_take_main_back(place: Path) -> None:
    source = backup(place)
    for number in (5, 6):
        publish(GitStore.at(place), number)
    before = state(place)
    damage(place / "refs/heads/main", b"")
    report = repair(place, source, SIDE)
    assert ["2 commits after where the copy has it" in line for line in report.done] == [True]
    assert state(place) == before


def test_what_no_copy_has_is_told_and_left(place: Path) -> None:
    source = backup(place)
    publish(GitStore.at(place), 5)
    damage(lfs_file(place, b"page 5"), b"page X")
    damage(lfs_file(place, b"page 1"), b"page X")
    report = repair(place, source, SIDE)
    assert [each.paths for each in report.left] == [("corpus/5",)]
    assert len(report.done) == 1
    assert report.left == verify_store(place).damage


def test_a_damaged_copy_is_not_trusted(place: Path) -> None:
    source = backup(place)
    for folder in (place, source):
        damage(lfs_file(folder, b"page 2"), b"page X")
        damage(older_commit(folder), b"")
    found = verify_store(place).damage
    report = repair(place, source, SIDE)
    assert report.left == found
    assert len(found) == 2
    assert report.done == []


def test_a_damaged_pack_is_emptied_into_a_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "store.git"
    monkeypatch.setattr("orchestration.store.git.objects.LOOSE_LIMIT", 0)
    for number in range(3):
        publish(GitStore.at(folder), number)
    before, source = state(folder), backup(folder)
    for pack in (folder / "objects/pack").glob("*.pack"):
        content = bytearray(pack.read_bytes())
        content[len(content) // 2] ^= 1
        damage(pack, bytes(content))
    index = sorted((folder / "objects/pack").glob("*.idx"))[0]
    damage(index, b"")
    report = repair(folder, source, SIDE)
    assert (report.left, verify_store(folder).damage) == ([], [])
    assert any("objects saved" in line for line in report.done)
    assert state(folder) == before


def test_takedowns_that_the_store_lost_come_back_with_their_ban(place: Path) -> None:
    source = backup(place)
    store = GitStore.at(place)
    sha256 = hashlib.sha256(b"page 0").hexdigest()
    for loss in (lambda: damage(place / f"lfs/purged/{sha256}.json", b""), lambda: shutil.rmtree(place / "lfs/purged")):
        loss()
        store.lfs.path(sha256).parent.mkdir(parents=True, exist_ok=True)
        assert repair(place, source, SIDE).left == []
        assert GitStore.at(place).takedowns() == {sha256: "law"}
        assert not store.lfs.path(sha256).exists()
    damage(place / f"lfs/purged/{sha256}.json", b"")
    assert "the ban stays" in repair(place, None, SIDE).done[0]
    assert list(GitStore.at(place).takedowns()) == [sha256]


def test_a_damaged_object_that_nothing_needs_no_longer_stops_gc(place: Path) -> None:
    store = GitStore.at(place)
    staged = store.resolve("build/open")
    store.delete_branch("build/open")
    damage(place / "objects" / staged[:2] / staged[2:], b"")
    assert "set aside" in " ".join(repair(place, None, SIDE).done)
    assert GitStore.at(place).gc().deleted_objects == 0
    assert (place / "headwater/set-aside" / staged).exists()


def test_what_is_no_copy_is_refused(place: Path, tmp_path: Path) -> None:
    for source, words in ((tmp_path / "nothing", "no clone or backup"), (place, "the store itself")):
        with pytest.raises(StoreError, match=words):
            repair(place, source, SIDE)
    with pytest.raises(StoreError, match="no store at"):
        repair(tmp_path / "nothing", None, SIDE)


def test_the_command_says_what_it_did_and_verify_names_the_command(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADWATER_HOME", str(tmp_path))
    source = backup(place)
    damage(place / "refs/tags/run/one", b"")
    damage(lfs_file(place, b"page 2"), b"page X")
    told = CliRunner().invoke(app, ["verify"])
    assert told.exit_code == 3
    assert "headwater repair --from CLONE_OR_BACKUP" in " ".join(told.output.split())
    left = CliRunner().invoke(app, ["repair"])
    assert (left.exit_code, "1 still damaged" in left.output) == (3, True)
    done = CliRunner().invoke(app, ["repair", "--from", str(source), "--json"])
    assert done.exit_code == 0
    assert [line.split(":")[0].split()[0] for line in json.loads(done.output)["done"]] == ["content"]
    assert CliRunner().invoke(app, ["verify"]).exit_code == 0
    assert GitStore.at(place).read_bytes("run/one", "corpus/2") == b"page 2"
