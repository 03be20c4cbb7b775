"""Deduplication of plain JSONL files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from assets.build import BuildError
from assets.dedup import standalone
from assets.dedup.recipe import DedupRecipe
from assets.dedup.signatures import SignatureRecipe
from assets.dedup.standalone import Summary, deduplicate
from tests.assets.dedup.worlds import chinese, english, replace_words


def write(path: Path, documents: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps({"id": doc_id, "text": text}, ensure_ascii=False) for doc_id, text in documents.items())
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_every_input_document_names_what_is_kept(tmp_path: Path) -> None:
    base = english(1, 200)
    write(tmp_path / "in/one.jsonl", {"c": base, "a": chinese(1), "b": base})
    write(tmp_path / "in/two.jsonl", {"e": replace_words(base, [50]), "d": ""})
    assert deduplicate(tmp_path / "in", tmp_path / "out") == Summary(5, 3, 1, 1)
    assert (tmp_path / "out/clusters.tsv").read_text() == "a\ta\nb\tb\nc\tb\nd\td\ne\tb\n"
    pairs = [line.split("\t") for line in (tmp_path / "out/pairs.tsv").read_text().splitlines()]
    assert [(a, b, method) for a, b, _, method in pairs] == [("b", "c", "exact_text"), ("b", "e", "minhash_jaccard")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "a"}', "line 2: needs an object with id and text"),
        ("[1", "line 2: needs an object with id and text"),
        ('{"id": "x", "text": "again"}', "line 2: id 'x' is used twice"),
        ('{"id": "a\\tb", "text": "tab"}', "holds a tab or line break"),
        ('{"id": "y", "text": 3}', "text must be a string, it is int"),
        ('{"id": 1.0, "text": "z"}', "id must be a text or a whole number, it is 1.0"),
        ('{"id": null, "text": "z"}', "id must be a text or a whole number, it is None"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"id": "x", "text": "fine"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(BuildError, match=message):
        deduplicate(path, tmp_path / "out")
    with pytest.raises(BuildError, match="neither a JSONL file nor a folder"):
        deduplicate(tmp_path / "nowhere", tmp_path / "out")


def test_integers_of_any_length_are_ids(tmp_path: Path) -> None:
    number = 123456789012345678901234567890
    source = tmp_path / "in.jsonl"
    source.write_text("".join(f'{{"id": {number + n}, "text": "{english(n, 200)}"}}\n' for n in range(2)))
    assert deduplicate(source, tmp_path / "out") == Summary(2, 2, 0, 0)
    assert (tmp_path / "out/clusters.tsv").read_text() == f"{number}\t{number}\n{number + 1}\t{number + 1}\n"


def test_a_second_call_goes_on_from_the_state_and_equals_one_call(tmp_path: Path) -> None:
    base, state = english(1, 200), tmp_path / "state"
    first = write(tmp_path / "1.jsonl", {"c": base, "a": chinese(1), "b": base, "x": english(9)})
    deduplicate(first, tmp_path / "out1", state=state)
    assert (tmp_path / "out1/clusters.tsv").read_text() == "a\ta\nb\tb\nc\tb\nx\tx\n"

    second = write(tmp_path / "2.jsonl", {"e": replace_words(base, [50]), "x": f"{base} "})
    remove = tmp_path / "ids.txt"
    remove.write_text("b\n")
    summary = deduplicate(second, tmp_path / "out2", state=state, remove=remove)
    everything = {"c": base, "a": chinese(1), "e": replace_words(base, [50]), "x": f"{base} "}
    once = deduplicate(write(tmp_path / "all.jsonl", everything), tmp_path / "once")
    assert summary == once == Summary(4, 2, 1, 1)
    for name in ("clusters.tsv", "pairs.tsv"):
        assert (tmp_path / "out2" / name).read_text() == (tmp_path / "once" / name).read_text()

    empty = tmp_path / "none.jsonl"
    empty.write_text("")
    remove.write_text("c\ne\nx\na\n")
    assert deduplicate(empty, tmp_path / "out3", state=state, remove=remove) == Summary(0, 0, 0, 0)
    assert (tmp_path / "out3/clusters.tsv").read_text() == ""


def test_a_call_that_dies_leaves_the_state_of_the_one_before(tmp_path: Path, monkeypatch) -> None:
    state = tmp_path / "state"
    first = write(tmp_path / "1.jsonl", {"a": english(1), "b": english(2)})
    second = write(tmp_path / "2.jsonl", {"c": english(1), "d": english(3)})
    deduplicate(first, tmp_path / "out", state=state)
    files = {path: path.read_bytes() for path in state.rglob("*") if path.is_file()}
    for moment in ("_keep", "_applied"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(standalone, moment, _die)
            deduplicate(second, tmp_path / "out", state=state)
        assert all(path.read_bytes() == content for path, content in files.items())
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(standalone.os, "replace", _die)
        deduplicate(second, tmp_path / "out", state=state)
    assert deduplicate(second, tmp_path / "out", state=state) == Summary(4, 3, 1, 0)
    assert (tmp_path / "out/clusters.tsv").read_text() == "a\ta\nb\tb\nc\ta\nd\td\n"


def _die(*_: object) -> None:
    raise KeyboardInterrupt


def test_states_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    state, remove = tmp_path / "state", tmp_path / "ids.txt"
    source = write(tmp_path / "1.jsonl", {"a": english(1)})
    remove.write_text("a\nz\n")
    with pytest.raises(BuildError, match="that needs the state they are in"):
        deduplicate(source, tmp_path / "out", remove=remove)
    deduplicate(source, tmp_path / "out", state=state)
    with pytest.raises(BuildError, match=r"ids.txt line 2: 'z' is not among the live documents"):
        deduplicate(source, tmp_path / "out", state=state, remove=remove)
    with pytest.raises(BuildError, match="signatures of different settings cannot be compared"):
        deduplicate(source, tmp_path / "out", SignatureRecipe(seed=1), state=state)
    with pytest.raises(BuildError, match="made with other settings: threshold"):
        deduplicate(source, tmp_path / "out", dedup=DedupRecipe(threshold=0.7), state=state)
    with standalone._locked(state), pytest.raises(BuildError, match="is in use by another call"):
        deduplicate(source, tmp_path / "out", state=state)
    assert deduplicate(source, tmp_path / "out", state=state) == Summary(1, 1, 0, 0)
