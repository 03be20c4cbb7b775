"""A takedown: what it says remains, what every command says of it, what fails after it, and what leads out."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from orchestration.cli.app import app
from orchestration.identity.catalog import read_catalog, segment
from orchestration.run.driver import RunFailedError
from orchestration.store.contract import PurgedObjectError, StoreError
from orchestration.store.git.store import GitStore
from orchestration.upkeep import compaction
from orchestration.upkeep.takedown import take_down
from orchestration.upkeep.takedown_text import normal, sentences
from tests.histories.world import render
from tests.orchestration.nights import Nights

FIRST, SECOND = "20260101T000000Z", "20260102T000000Z"
KEY, REASON = f"alpha@{FIRST}", "asked for by its author"
SECRET = "Mr. Aurelius Quillfeather of Lower Wenslow keeps “eleven” blue herons & a tuba in his attic."
TAKEN = ("raw_crawl", "extracted_documents")


@dataclass
class After:
    """A built home, whose takedown answered `told`."""

    nights: Nights
    told: dict[str, Any]

    @property
    def home(self) -> Path:
        return self.nights.folder / "state"

    @property
    def store(self) -> GitStore:
        return GitStore.at(self.home / "store.git")


def objects(store: GitStore) -> list[str]:
    """The files of alpha's crawl that hold its pages."""
    paths = [f"main:{info.path}" for info in store.list("main") if KEY in info.path]
    return [
        p
        for p in paths
        if ("/raw_crawl/" in p and ".warc" in p)
        or ("/extracted_documents/" in p and "documents" in p.rpartition("/")[2])
    ]


def command(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exception is None or isinstance(done.exception, SystemExit), done.output
    return done.exit_code, done.output


def answer(*arguments: str) -> tuple[int, Any]:
    done = CliRunner().invoke(app, [*arguments, "--json"])
    return done.exit_code, json.loads(done.stdout)


@pytest.fixture(scope="module")
def after(tmp_path_factory: pytest.TempPathFactory) -> Iterator[After]:
    """Two sources, built without training; then alpha's pages are taken down."""
    with pytest.MonkeyPatch.context() as patch:
        nights = Nights.create(tmp_path_factory.mktemp("takedown"), patch, "alpha", "beta")
        page = nights.folder / "sites/alpha/00.txt"
        page.write_text(f"{SECRET}\n{render('en 0', 'text').decode()}\n{SECRET[::-1]}\n", encoding="utf-8")
        nights.run(at=FIRST)
        home = nights.folder / "state"
        (home / "exports").mkdir()
        (home / "exports/old.jsonl.gz").write_bytes(gzip.compress(json.dumps({"text": f"a {SECRET}"}).encode()))
        (home / "scratch/corpus/left").mkdir(parents=True)
        (home / "scratch/corpus/left/page.html").write_text(
            f"<p>{SECRET.replace('blue', '<b>blue</b>').replace('&', '&amp;')}"
        )
        (home / "innocent.txt").write_text("herons and tubas")
        store = GitStore.at(home / "store.git")
        code, told = answer("takedown", *objects(store), "--reason", REASON, "--text", SECRET)
        assert code == 3
        yield After(nights, told)


def test_it_lists_what_else_holds_the_text(after: After) -> None:
    found = {(each["place"], each["asset"] or each["path"]) for each in after.told["search"]["found"]}
    assert {("main", "tokenizer_sample"), ("main", "token_shards")} <= found
    home = {path for place, path in found if place == "home"}
    assert {"exports/old.jsonl.gz", "scratch/corpus/left/page.html"} <= home
    assert any(path.startswith("dagster/") for path in home), home
    assert "innocent.txt" not in home
    assert not {asset for place, asset in found if asset in TAKEN and place == "main"} - {"extracted_documents"}
    sample = next(each for each in after.told["search"]["found"] if each["asset"] == "tokenizer_sample")
    assert "--rebuild tokenizer_sample" in sample["remedy"]


def test_it_never_calls_anything_gone(after: After) -> None:
    code, words = command("takedown", *after.told["sha256s"], "--reason", "again", "--text", SECRET)
    assert code == 3
    assert "remains in main: tokenizer/tokenizer_sample/" in words
    assert "The text is still in" in words
    code, words = command(
        "takedown",
        *after.told["sha256s"],
        "--search-only",
        "--reason",
        "none",
        "--text",
        "a sentence that is written in no file at all",
    )
    assert code == 0
    assert "does not mean that there is none" in words
    assert "Not searched: older commits" in words
    assert " gone" not in words


def test_sentences_are_taken_from_the_objects_where_none_is_given(after: After, tmp_path: Path) -> None:
    store = after.store
    path = next(
        i.path
        for i in store.list("main", f"documents/extracted_documents/beta@{FIRST}/")
        if "documents" in i.path.rpartition("/")[2]
    )
    done = take_down(store, after.home, [f"main:{path}"], "only a look", search_only=True)
    assert not done.deleted
    assert done.search.documents_covered > 0
    assert {"tokenizer_sample", "raw_crawl"} <= {each.asset for each in done.search.found}
    store.read_bytes("main", path)


def test_all_six_commands_name_it(after: After) -> None:
    code, found = answer("status")
    assert code == 3
    states = {(i["asset"], i["partition"]): (i["state"], i["causes"]) for i in found["items"]}
    for asset in TAKEN:
        state, causes = states[asset, KEY]
        assert state == "taken_down"
        assert REASON in causes[0]
        assert "headwater run --recrawl alpha" in causes[0]
    assert states["extracted_documents", f"beta@{FIRST}"][0] == "fresh"
    code, found = answer("verify")
    assert (code, {each["partition"] for each in found["taken_down"]}) == (0, {KEY})
    code, found = answer("audit")
    assert [row["run"] for row in found if row["rule"] == "taken_down"] == [KEY] * len(TAKEN)
    _, found = answer("doctor")
    assert len([f for f in found if f["name"] == "taken down" and "--recrawl alpha" in f["remedy"]]) == len(TAKEN)
    _, found = answer("lineage", "alpha/01.txt")
    assert {each["asset"] for each in found["documents"][0]["taken_down"]} == set(TAKEN)
    code, found = answer("run", "--recipe", "tiny", "--no-train")
    assert (code, {each["asset"] for each in found["taken_down"]}) == (0, set(TAKEN))


@pytest.mark.parametrize(
    "arguments",
    [("status",), ("verify",), ("audit",), ("lineage", "alpha/01.txt"), ("run", "--recipe", "tiny", "--no-train")],
)
def test_and_in_words(after: After, arguments: tuple[str, ...]) -> None:
    words = " ".join(command(*arguments)[1].split())
    assert "taken down" in words or "taken_down" in words
    assert REASON in words


def test_what_needs_it_fails_and_names_the_way_out(
    after: After, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(compaction, "LEAST_PARTITIONS", 1)
    export = ("export", "corpus", str(tmp_path / "corpus.jsonl"), "--text")
    for arguments in (export, ("compact",), ("run", "--recipe", "tiny", "--no-train", "--rebuild", "token_shards")):
        code, words = command(*arguments)
        assert code == 1, (arguments, words)
        assert REASON in words, words
        assert "headwater run --recrawl alpha" in words, words
    with pytest.raises(PurgedObjectError, match="--recrawl alpha"):
        catalog = read_catalog(after.store)
        segment(after.store, "main", catalog.manifests["extracted_documents", KEY]).table("documents")


def test_a_manifest_is_not_taken_down(after: After) -> None:
    with pytest.raises(StoreError, match="is a manifest"):
        take_down(after.store, after.home, ["main:dedup/corpus/_manifest.json"], "a reason")


def test_recrawl_leads_out(after: After, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nights = after.nights.copy(tmp_path, monkeypatch)
    (nights.folder / "sites/alpha/00.txt").unlink()
    nights.run("alpha", at=SECOND)
    assert nights.catalog().partitions("raw_crawl") == [f"alpha@{SECOND}", f"beta@{FIRST}"]
    assert nights.status().needing() == []
    assert nights.documents() == {"alpha": 5, "beta": 6}
    code, words = command(
        "run", "--recipe", "tiny", "--no-train", "--rebuild", "tokenizer_sample", "--rebuild", "token_shards"
    )
    assert code == 0, words
    nights.run()  # what reads the new sample
    monkeypatch.setattr(compaction, "LEAST_PARTITIONS", 1)
    assert command("compact")[0] == 0
    code, words = command("export", "corpus", str(tmp_path / "corpus.jsonl"), "--text")
    assert code == 0, words
    assert SECRET not in (tmp_path / "corpus.jsonl").read_text()
    code, found = answer("status")
    assert code == 0
    assert {each["on_main"] for each in found["taken_down"]} == {False}
    _, found = answer("takedown", *after.told["sha256s"], "--reason", REASON, "--text", SECRET)
    left = {each["asset"] for each in found["search"]["found"] if each["place"] == "main"}
    assert left <= {"tokenizer"}, found


def test_a_failed_recrawl_is_tried_again(after: After, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nights = after.nights.copy(tmp_path, monkeypatch)
    (nights.folder / "sites/alpha/00.txt").unlink()
    nights.kill("alpha")
    with pytest.raises(RunFailedError, match="alpha"):
        nights.run("alpha", at=SECOND)
    nights.revive("alpha")
    nights.run()
    assert nights.documents() == {"alpha": 5, "beta": 6}
    assert nights.catalog().partitions("raw_crawl") == [f"alpha@{SECOND}", f"beta@{FIRST}"]


def test_a_clone_carries_the_record(after: After, tmp_path: Path) -> None:
    taken = set(after.told["sha256s"])
    mirror = tmp_path / "mirror.git"
    subprocess.run(["git", "clone", "-q", "--bare", f"file://{after.home / 'store.git'}", mirror], check=True)
    shutil.copytree(after.home / "store.git/lfs/objects", mirror / "lfs/objects")  # as git-lfs fetches it
    clone = GitStore.at(mirror)
    assert {sha256: clone.takedowns()[sha256] for sha256 in taken} == dict.fromkeys(taken, REASON)
    path = next(i.path for i in clone.list("main", f"documents/extracted_documents/{KEY}/") if i.sha256 in taken)
    with pytest.raises(PurgedObjectError, match=REASON):
        clone.read_bytes("main", path)


def test_a_backup_from_before_learns_of_it_and_gives_up_the_bytes(after: After, tmp_path: Path) -> None:
    store = GitStore.at(tmp_path / "store.git")
    store.commit("main", {"a.txt": b"a text of someone"}, message="one")
    shutil.copytree(store.folder, tmp_path / "backup.git")
    take_down(store, tmp_path, ["main:a.txt"], REASON)
    subprocess.run(["git", "-C", tmp_path / "backup.git", "fetch", "-q", store.folder, "main:main"], check=True)
    shutil.copytree(store.folder / "lfs/objects", tmp_path / "backup.git/lfs/objects", dirs_exist_ok=True)
    backup = GitStore.at(tmp_path / "backup.git")
    assert list(backup.takedowns().values()) == [REASON]
    with pytest.raises(PurgedObjectError, match=REASON):
        backup.commit("main", {"b.txt": b"a text of someone"}, message="again")
    assert not [
        path for path in backup.folder.rglob("*") if path.is_file() and path.read_bytes() == b"a text of someone"
    ]


def test_the_same_sentence_is_the_same_however_it_is_written() -> None:
    html = SECRET.replace("&", "&amp;").replace("blue", "<em class='x'>blue</em>")
    assert normal(html) == normal(SECRET) == normal(json.dumps(json.dumps(SECRET)))
    assert normal("河流上游的\n工程师") == normal(json.dumps("河流上游的 工程师"))
    assert sentences("short") == []
