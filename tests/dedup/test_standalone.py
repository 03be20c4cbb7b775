"""Deduplication of plain JSONL files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from assets.build import BuildError
from assets.dedup.standalone import Summary, deduplicate
from tests.dedup.worlds import chinese, english, replace_words


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
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"id": "x", "text": "fine"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(BuildError, match=message):
        deduplicate(path, tmp_path / "out")
    with pytest.raises(BuildError, match="neither a JSONL file nor a folder"):
        deduplicate(tmp_path / "nowhere", tmp_path / "out")
