"""JSONL of people who want one stage: what is read, what is refused, and where it stands."""

from __future__ import annotations

import bz2
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from assets.build import BuildError
from assets.plain_files import JSONL_SUFFIXES, Ids, input_files, read_lines, replaced

ROWS = b'{"id": "a", "text": "one"}\n\n{"id": "b", "text": "\xe4\xba\x8c"}\n'


COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "x.jsonl": bytes,
    "x.jsonl.gz": lambda rows: gzip.compress(rows[:30]) + gzip.compress(rows[30:]),
    "x.jsonl.bz2": bz2.compress,
    "x.jsonl.zst": lambda rows: pa.compress(rows, codec="zstd", asbytes=True),
}


@pytest.mark.parametrize("name", COMPRESSORS)
def test_plain_and_compressed_files_give_the_same_lines(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(COMPRESSORS[name](ROWS))
    lines = list(read_lines(tmp_path / name))
    assert [(line.number, line.row["id"], line.text("text")) for line in lines] == [(1, "a", "one"), (3, "b", "二")]


def test_an_integer_of_any_length_stays_what_it_is(tmp_path: Path) -> None:
    number = 123456789012345678901234567890
    (tmp_path / "x.jsonl").write_bytes(b'{"id": %d, "score": 1.5}\n{"id": [%d], "note": "%d"}\n' % ((number,) * 3))
    first, second = (line.row for line in read_lines(tmp_path / "x.jsonl"))
    assert (first, second) == ({"id": number, "score": 1.5}, {"id": [number], "note": str(number)})
    assert Ids().new(first["id"], "line 1") == str(number)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"id": "a"', "line 2: not valid JSON"),
        (b'["a"]', "line 2: must be a JSON object"),
        (b'{"id": "\\ud800"}', "line 2: not valid JSON"),
        (b'{"id": "\xff"}', "line 2: not valid JSON"),
    ],
)
def test_a_line_that_is_no_object_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    (tmp_path / "x.jsonl").write_bytes(b'{"id": 1}\n' + line + b"\n")
    with pytest.raises(BuildError, match=message):
        list(read_lines(tmp_path / "x.jsonl"))


def test_a_truncated_file_is_an_error_and_not_a_shorter_file(tmp_path: Path) -> None:
    rows = b"".join(json.dumps({"id": n, "text": str(n * 7919)}).encode() + b"\n" for n in range(20_000))
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(rows)[:40_000])
    with pytest.raises(BuildError, match=r"x\.jsonl\.gz after line \d+: cannot be read"):
        list(read_lines(tmp_path / "x.jsonl.gz"))


def test_text_that_is_missing_or_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"id": "a"}\n{"id": "b", "text": 3}\n')
    first, second = read_lines(tmp_path / "x.jsonl")
    with pytest.raises(BuildError, match=r"line 1: 'text' must be a string, it is missing; the line has \['id'\]"):
        first.text("text")
    with pytest.raises(BuildError, match="line 2: 'text' must be a string, it is '3'"):
        second.text("text")
    assert first.text("format", "text") == "text"


def test_ids_are_texts_or_numbers_and_unique() -> None:
    ids = Ids()
    assert [ids.new(7, "x line 1"), ids.new("é", "x line 2")] == ["7", "é"]
    with pytest.raises(BuildError, match="y line 9: id '7' was used before, at x line 1"):
        ids.new("7", "y line 9")
    for value in (None, "", 1.5, True, ["a"]):
        with pytest.raises(BuildError, match="must be a text or a whole number"):
            ids.new(value, "x line 3")


def test_files_are_found_by_suffix_and_nothing_is_an_error(tmp_path: Path) -> None:
    for name in ("b.jsonl", "deep/a.JSONL.gz", "notes.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert input_files(tmp_path, JSONL_SUFFIXES) == [tmp_path / "b.jsonl", tmp_path / "deep/a.JSONL.gz"]
    for source, message in (("notes.md", "cannot read this kind"), ("none", "no such file"), ("empty", "no file in")):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(BuildError, match=message):
            input_files(tmp_path / source, JSONL_SUFFIXES)


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), replaced(tmp_path / "x") as file:
        file.write(b"half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with replaced(tmp_path / "x") as file:
        file.write(b"whole")
    assert (tmp_path / "x").read_bytes() == b"whole"
