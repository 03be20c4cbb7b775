"""Damage of the Git store's own index: refs, commits, trees and pointer blobs. Contents: test_keeping.py."""

from __future__ import annotations

import errno
import gc
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from orchestration.store import verify_store
from orchestration.store.contract import CorruptObjectError, DamagedIndexError, PurgedObjectError
from orchestration.store.git import maintenance
from orchestration.store.git.mending.repair import repair
from orchestration.store.git.store import GitStore
from tests.end_to_end.harness import REPOSITORY
from tests.orchestration.store.conftest import damage, tree

FILES = {"corpus/a": b"1", "corpus/b": b"2", "tokens/c": b"3"}
DAMAGES = {
    "emptied": lambda path: damage(path, b""),
    "overwritten": lambda path: damage(path, b"\0" * 40),
    "cut": lambda path: damage(path, path.read_bytes()[:-5]),
    "cut in half": lambda path: damage(path, path.read_bytes()[: path.stat().st_size // 2]),
    "missing": lambda path: path.unlink(),
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "store.git"
    GitStore.at(folder).commit("main", FILES, message="base")
    return folder


def object_file(place: Path, oid: str) -> Path:
    return place / "objects" / oid[:2] / oid[2:]


def object_ids(place: Path) -> dict[str, str]:
    """One object of each kind that `main` needs."""
    store = GitStore.at(place)
    head = store.resolve("main")
    root = store.git.root(head)
    folder = store.git.tree(root)["corpus"][1]
    return {"commit": head, "root": root, "folder": folder, "blob": store.git.tree(folder)["a"][1]}


@pytest.mark.parametrize("how", DAMAGES)
def test_committing_the_same_bytes_over_a_damaged_object_heals_it(place: Path, how: str) -> None:
    blob = object_ids(place)["blob"]
    DAMAGES[how](object_file(place, blob))
    with pytest.raises(CorruptObjectError):
        tree(GitStore.at(place))
    GitStore.at(place).commit("main", {"elsewhere": FILES["corpus/a"]}, message="the same bytes again")
    assert tree(GitStore.at(place)) == {**FILES, "elsewhere": FILES["corpus/a"]}


def damage_of(place: Path) -> dict[str, tuple[str, str]]:
    """What verify tells: id -> (kind, problem)."""
    return {each.sha256: (each.kind, each.problem) for each in verify_store(place).damage}


REFS = {
    "an emptied tag": ("refs/tags/run/pages", b""),
    "a tag with junk in it": ("refs/tags/run/pages", b"\0" * 41),
    "an emptied branch": ("refs/heads/main", b""),
    "an emptied HEAD": ("HEAD", b""),
    "an emptied configuration": ("config", b""),
    "a configuration that cannot be read": ("config", b"[core"),
}


@pytest.mark.parametrize("case", REFS)
def test_verify_reads_refs_and_configuration(place: Path, case: str) -> None:
    GitStore.at(place).tag("run/pages", "main", "what a run was planned on")
    assert damage_of(place) == {}
    name, content = REFS[case]
    (place / name).write_bytes(content)
    assert damage_of(place)[name] == ("config" if name == "config" else "ref", "altered")


@pytest.mark.parametrize("name", ["HEAD", "config", "refs/heads/main"])
def test_verify_tells_of_a_lost_file(place: Path, name: str) -> None:
    (place / name).unlink()
    assert damage_of(place)[name] == ("config" if name == "config" else "ref", "missing")


def test_a_store_that_lost_its_head_is_not_taken_for_a_new_folder(place: Path) -> None:
    (place / "HEAD").unlink()
    with pytest.raises(CorruptObjectError, match="headwater repair --from"):
        GitStore.at(place)


def test_a_damaged_ref_does_not_vanish(place: Path) -> None:
    GitStore.at(place).tag("run/pages", "main", "what a run was planned on")
    (place / "refs/tags/run/pages").write_bytes(b"")
    store = GitStore.at(place)
    for look in (store.tags, lambda: store.resolve("run/pages")):
        with pytest.raises(CorruptObjectError, match=r"refs/tags/run/pages.*headwater repair"):
            look()


@pytest.mark.parametrize("kind", ["commit", "root", "folder", "blob"])
@pytest.mark.parametrize("how", DAMAGES)
def test_verify_names_every_damaged_object_with_paths_and_commits(place: Path, kind: str, how: str) -> None:
    ids = object_ids(place)
    later = GitStore.at(place).commit("main", {"more/d": b"4"}, message="later")
    other = GitStore.at(place).commit("main", {"tokens/c": b"changed"}, message="later still")
    blob = GitStore.at(place).git.tree(GitStore.at(place).git.tree(GitStore.at(place).git.root(other))["more"][1])["d"][
        1
    ]
    DAMAGES[how](object_file(place, ids[kind]))
    DAMAGES["emptied"](object_file(place, blob))
    found = {each.sha256: each for each in verify_store(place).damage}
    assert set(found) == {ids[kind], blob}, "the first damage does not hide the second"
    told = found[ids[kind]]
    assert told.problem == ("missing" if how == "missing" else "altered")
    paths, commits = {
        "commit": ((), {later}),
        "root": (("/",), {ids["commit"]}),
        "folder": (("corpus/",), {ids["commit"], later, other}),
        "blob": (("corpus/a",), {ids["commit"], later, other}),
    }[kind]
    assert (told.kind, told.paths) == ({"root": "tree", "folder": "tree"}.get(kind, kind), paths)
    assert set(told.commits) == commits
    assert (found[blob].paths, set(found[blob].commits)) == (("more/d",), {later, other})


def test_verify_of_one_ref_tells_only_of_what_that_ref_holds(place: Path) -> None:
    old = object_ids(place)
    GitStore.at(place).commit("main", {"tokens/c": b"changed"}, ["corpus/"], message="later")
    DAMAGES["emptied"](object_file(place, old["folder"]))
    assert verify_store(place, "main").damage == []
    assert [each.sha256 for each in verify_store(place, old["commit"]).damage] == [old["folder"]]


def test_verify_reads_packs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestration.store.git.objects.LOOSE_LIMIT", 0)
    GitStore.at(tmp_path / "store.git").commit("main", FILES, message="base")
    packs = sorted((tmp_path / "store.git/objects/pack").glob("*.pack"))
    content = bytearray(packs[-1].read_bytes())
    content[len(content) // 2] ^= 1
    damage(packs[-1], bytes(content))
    assert ("pack", "altered") in damage_of(tmp_path / "store.git").values()


def test_an_emptied_record_of_a_takedown_still_bans_and_is_told(place: Path) -> None:
    store = GitStore.at(place)
    sha256 = store.stat("main", "corpus/a").sha256
    store.purge([sha256], reason="law")
    damage(place / f"lfs/purged/{sha256}.json", b"")
    with pytest.raises(PurgedObjectError, match="record was damaged"):
        GitStore.at(place).read_bytes("main", "corpus/a")
    assert list(GitStore.at(place).takedowns()) == [sha256]
    assert damage_of(place) == {f"lfs/purged/{sha256}.json": ("takedown", "altered")}
    store.purge([sha256], reason="law, again")
    assert (GitStore.at(place).takedowns(), damage_of(place)) == ({sha256: "law, again"}, {})


@pytest.mark.parametrize("name", ["refs/tags/run/pages", "refs/heads/side", "packed-refs"])
def test_gc_refuses_while_a_ref_cannot_be_read(place: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(maintenance, "GRACE_S", -1.0)
    store = GitStore.at(place)
    store.tag("run/pages", "main", "what a run was planned on")
    store.create_branch("side")
    store.commit("main", {"later": b"1"}, ["corpus/"], message="later")
    (place / name).write_bytes(b"")
    with pytest.raises(DamagedIndexError, match=f"{name} of .* cannot be read.*headwater repair"):
        GitStore.at(place).gc(keep_days=0)
    assert store.lfs.path(hashlib.sha256(FILES["corpus/a"]).hexdigest()).exists()


def test_gc_refuses_while_a_commit_that_may_be_young_cannot_be_read(place: Path) -> None:
    store = GitStore.at(place)
    store.create_branch("gone")
    commit = store.commit("gone", {"x": b"1"}, message="staged")
    store.delete_branch("gone")
    DAMAGES["emptied"](object_file(place, commit))
    with pytest.raises(DamagedIndexError, match="nothing was deleted"):
        GitStore.at(place).gc()


@pytest.mark.skipif(not shutil.which("strace"), reason="a read is made to fail by strace: apt-get install strace")
@pytest.mark.parametrize("kind", ["commit", "folder"])
def test_a_disk_that_reports_an_error_is_not_told_as_damage(place: Path, kind: str) -> None:
    path = object_file(place, object_ids(place)[kind])
    program = (
        "import sys; from pathlib import Path; from orchestration.store.git.store import GitStore\n"
        "from tests.orchestration.store.conftest import tree\n"
        "try: tree(GitStore.at(Path(sys.argv[1])))\n"
        "except Exception as error: print(error)"
    )
    strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-P", str(path), "-e", "inject=read,pread64,readv:error=EIO"]
    command = [*strace, sys.executable, "-c", program, str(place)]
    said = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    assert os.strerror(errno.EIO) in said and path.parent.name in said
    assert "could not be read" in said and "missing or damaged" not in said


READ = """
import sys
from orchestration.store import open_store
from orchestration.store.contract import CorruptObjectError
store = open_store(sys.argv[1])
looks = {
    "log": lambda: list(store.log("main")),
    "read": lambda: [store.read_bytes("main", each.path) for each in store.list("main")],
    "merge": lambda: store.merge("other", message="merged"),
    "ancestor": lambda: store.resolve("main~2"),
}
try:
    looks[sys.argv[2]]()
except CorruptObjectError as error:
    print(error)
"""


@pytest.mark.parametrize("look", ["log", "read", "merge", "ancestor"])
@pytest.mark.parametrize("lost_bytes", [1, 5, 12, 40])
def test_an_object_that_ends_too_early_holds_nobody_up(place: Path, look: str, lost_bytes: int) -> None:
    store = GitStore.at(place)
    store.create_branch("other")
    store.commit("other", {"more/d": b"4"}, message="elsewhere")
    below = store.resolve("main")
    for n in range(2):
        store.commit("main", {"corpus/a": b"again %d" % n}, message="later")
    base = {"log": below, "merge": below, "read": object_ids(place)["folder"], "ancestor": store.resolve("main~1")}
    path = object_file(place, base[look])
    damage(path, path.read_bytes()[:-lost_bytes])
    command = [sys.executable, "-c", READ, str(place), look]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "`headwater verify` finds all damage; `headwater repair" in done.stdout


def test_an_altered_index_of_a_pack_is_never_followed(place: Path) -> None:
    GitStore.at(place).commit("main", {f"many/{n}": b"%d" % n for n in range(100)}, message="a pack")
    whole = tree(GitStore.at(place))
    gc.collect()  # libgit2 keeps packs by their names as long as a repository has them open
    (index,) = (place / "objects/pack").glob("*.idx")
    content = bytearray(index.read_bytes())
    content[-60] ^= 0x40  # of an offset: libgit2 reads outside the pack, and the process may end there
    damage(index, bytes(content))
    with pytest.raises(CorruptObjectError, match=r"pack-.*\.idx does not have the checksum.*headwater repair"):
        GitStore.at(place)
    assert {each.sha256 for each in verify_store(place).damage} == {f"objects/pack/{index.stem}.pack"}
    report = repair(place, None, "headwater.side")
    assert not report.left, report.left
    assert tree(GitStore.at(place)) == whole
