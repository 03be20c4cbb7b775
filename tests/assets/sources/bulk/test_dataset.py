"""Data sets as captures: every layout, every compression, every row that is no document."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from backports import zstd

from assets.build import BuildError
from tests.assets.sources.bulk.bulk import crawl, table

ROWS = [
    {"id": "a", "text": "first document", "meta": {"lang": "en"}, "licence": "MIT", "date": "2024-05-06"},
    {"id": "二", "text": "第二篇文章。", "meta": {"lang": "zh"}, "licence": None, "date": 1700000000},
]
COLUMNS = {"id": "id", "licence": "licence", "language": "meta.lang", "time": "date", "metadata": ["date"]}


def lines(rows: list[Any]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def dataset(path: Path | str, **keys: Any) -> dict[str, Any]:
    return table("dataset", paths=[str(path)], columns=keys.pop("columns", COLUMNS), **keys)


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [("", bytes), (".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress), (".zst", zstd.compress)],
)
def test_json_lines_in_every_compression(tmp_path: Path, suffix: str, pack: Any) -> None:
    path = tmp_path / f"data.jsonl{suffix}"
    path.write_bytes(pack(lines(ROWS[:1])) + (pack(lines(ROWS[1:]))))  # two members
    found = crawl(tmp_path / "build", dataset(path))
    assert found.payloads == {
        "dataset:bulk/a": b"first document",
        "dataset:bulk/%E4%BA%8C": "第二篇文章。".encode(),
    }
    first, second = found.rows["dataset:bulk/a"], found.rows["dataset:bulk/%E4%BA%8C"]
    assert (first["licence"], first["language"], first["metadata"]) == ("MIT", "en", '{"date": "2024-05-06"}')
    assert (second["licence"], second["fetched_at"].timestamp()) == ("CC0-1.0", 1700000000)
    assert first["fetched_at"].isoformat() == "2024-05-06T00:00:00+00:00"


def test_all_layouts_hold_the_same_records(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_bytes(lines(ROWS))
    (tmp_path / "d.json").write_text(json.dumps(ROWS))
    pq.write_table(pa.Table.from_pylist([{"id": r["id"], "text": r["text"]} for r in ROWS]), tmp_path / "d.parquet")
    (tmp_path / "d.csv").write_text('id,text\na,"first document"\n二,第二篇文章。\n')
    (tmp_path / "d.tsv").write_text("id\ttext\na\tfirst document\n二\t第二篇文章。\n")
    expected = None
    for name in ("d.jsonl", "d.json", "d.parquet", "d.csv", "d.tsv"):
        found = crawl(tmp_path / name.replace(".", "-"), dataset(tmp_path / name, columns={"id": "id"}))
        expected = expected or found.payloads
        assert found.payloads == expected, name
        assert len(expected) == 2


LONG = 123456789012345678901234567890


def test_an_integer_of_any_length_names_its_row(tmp_path: Path) -> None:
    ids = [LONG, LONG + 1, -(2**63) - 1, 2**64, 2**53 + 1, 7]
    rows = [{"id": number, "text": f"text of {number}", "score": 1.5} for number in ids]
    (tmp_path / "d.jsonl").write_bytes(lines([*rows, {"id": 1.0, "text": "no id"}]))
    (tmp_path / "d.json").write_text(json.dumps(rows))
    decimals = pa.array(ids, pa.decimal128(38, 0))
    texts = pa.array([row["text"] for row in rows])
    pq.write_table(pa.table({"id": decimals, "text": texts, "score": [1.5] * len(ids)}), tmp_path / "d.parquet")
    columns = {"id": "id", "metadata": ["score"]}
    for name in ("d.jsonl", "d.json", "d.parquet"):
        found = crawl(tmp_path / name.replace(".", "-"), dataset(tmp_path / name, columns=columns))
        assert found.payloads == {f"dataset:bulk/{number}": f"text of {number}".encode() for number in ids}, name
        assert {found.rows[url]["metadata"] for url in found.kept} == {'{"score": 1.5}'}
        refused = {url: reason for url, reason in found.reasons.items() if reason}
        assert refused == ({"dataset:bulk/d.jsonl%23line-7": "wrong_type"} if name == "d.jsonl" else {})


def test_digits_without_end_are_no_id(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_bytes(b'{"id": ' + b"7" * 5000 + b', "text": "x"}\n' + lines(ROWS[:1]))
    found = crawl(tmp_path / "b", dataset(tmp_path / "d.jsonl"))
    assert found.reasons == {"dataset:bulk/a": None, "dataset:bulk/d.jsonl%23line-1": "invalid_json"}


def test_without_an_identity_the_content_names_the_row(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_bytes(lines(ROWS))
    before = crawl(tmp_path / "b1", dataset(tmp_path / "d.jsonl", columns={}))
    (tmp_path / "d.jsonl").write_bytes(lines([{"text": "put in front"}, *ROWS]))
    after = crawl(tmp_path / "b2", dataset(tmp_path / "d.jsonl", columns={}))
    assert set(before.kept) < set(after.kept)
    assert all(url.startswith("dataset:bulk/sha256:") for url in after.kept)


def test_a_url_column_is_the_url(tmp_path: Path) -> None:
    rows = [{"u": "HTTP://Example.org:80/a?b=2&a=1#x", "text": "one"}, {"u": "not a url", "text": "two"}]
    (tmp_path / "d.jsonl").write_bytes(lines(rows))
    found = crawl(tmp_path / "b", dataset(tmp_path / "d.jsonl", columns={"url": "u"}))
    assert found.kept == ["dataset:bulk/not%20a%20url", "http://example.org/a?a=1&b=2"]


def test_every_row_that_is_no_document_has_its_reason(tmp_path: Path) -> None:
    broken = [
        b'{"id": "ok", "text": "fine"}',
        b'{"id": "cut", "text": "fi',
        b"[1, 2]",
        b'{"id": "no-text"}',
        b'{"id": "number", "text": 5}',
        b'{"id": "null", "text": null}',
        b'{"id": "nul", "text": "a\\u0000b"}',
        b'{"id": "half", "text": "a\\ud800b"}',
        b'{"id": true, "text": "x"}',
        b'{"text": "nameless"}',
        b'{"id": "long", "text": "' + b"x" * 5000 + b'"}',
        b'{"id": "\\udfff", "text": "surrogate in the name"}',
        b'{"id": "date", "text": "undated", "date": "yesterday"}',
        b'{"id": "ok", "text": "again"}',
        '{"id": "latin", "text": "café"}'.encode("latin-1"),
    ]
    (tmp_path / "d.jsonl").write_bytes(b"\n".join(broken))
    found = crawl(tmp_path / "b", dataset(tmp_path / "d.jsonl", max_bytes_per_record=4000))
    line = "dataset:bulk/d.jsonl%23line-"
    assert found.reasons == {
        "dataset:bulk/ok": None,
        f"{line}2": "invalid_json",
        f"{line}3": "wrong_type",
        "dataset:bulk/no-text": "missing_column",
        "dataset:bulk/number": "wrong_type",
        "dataset:bulk/null": "empty_body",
        "dataset:bulk/nul": "nul_characters",
        "dataset:bulk/half": "lone_surrogates",
        f"{line}9": "wrong_type",
        f"{line}10": "missing_column",
        f"{line}11": "too_large",
        "dataset:bulk/%5Cudfff": None,
        "dataset:bulk/date": None,
        f"{line}15": "invalid_json",
    }
    assert found.payloads["dataset:bulk/ok"] == b"fine"  # the first of two
    assert found.summary["not_taken"] == {"duplicate_url": 1}
    assert "neither ISO 8601" in found.rows["dataset:bulk/date"]["detail"]
    assert "line-2" in found.rows[f"{line}2"]["detail"]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("cut.jsonl.gz", gzip.compress(lines(ROWS * 50))[:-20], "input_truncated"),
        ("cut.jsonl.bz2", bz2.compress(lines(ROWS * 50))[:-20], "input_truncated"),
        ("cut.jsonl.xz", lzma.compress(lines(ROWS * 50))[:-20], "input_truncated"),
        ("cut.jsonl.zst", zstd.compress(lines(ROWS * 50))[:-20], "input_truncated"),
        ("bad.jsonl.gz", gzip.compress(lines(ROWS)) + b"\x1f\x8b\x08 no member", "input_damaged"),
        ("junk.jsonl.gz", gzip.compress(lines(ROWS)) + b"junk behind", "input_damaged"),
        ("cut.json", b'[{"id": "a", "text": "t"}, {"id', "input_truncated"),
        ("bad.json", b'[{"id": "a", "text": "t"}, }', "input_damaged"),
        ("no.parquet", b"PAR1 nothing", "input_damaged"),
        ("what.xyz", b"?", "input_unknown_layout"),
        ("wide.jsonl", '{"id": "a"}'.encode("utf-16"), "input_undecodable"),
    ],
)
def test_a_file_that_cannot_be_read_on_is_recorded_and_the_next_is_read(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / name).write_bytes(content)
    (folder / "z.jsonl").write_bytes(lines([{"id": "next", "text": "still read"}]))
    found = crawl(tmp_path / "b", dataset(folder))
    assert found.reasons[f"dataset:bulk/{name}"] == reason
    assert found.reasons["dataset:bulk/next"] is None
    assert found.rows[f"dataset:bulk/{name}"]["detail"]


def test_a_parquet_file_without_the_column_says_which_it_has(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["a"], "body": ["t"]}), tmp_path / "d.parquet")
    with pytest.raises(BuildError, match=r"kept nothing.*input_lacks_column"):
        crawl(tmp_path / "b", dataset(tmp_path / "d.parquet", columns={"id": "id"}))


def test_a_damaged_row_group_costs_only_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "d.parquet"
    rows = [{"id": f"{n:04d}", "text": f"document {n} " * 20} for n in range(300)]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=100, compression="zstd", use_dictionary=False)
    content = bytearray(path.read_bytes())
    at = pq.ParquetFile(path).metadata.row_group(1).column(1).data_page_offset
    content[at + 40 : at + 400] = b"\xff" * 360
    path.write_bytes(content)
    found = crawl(tmp_path / "b", dataset(path, columns={"id": "id"}))
    assert len(found.kept) == 200
    assert found.reasons["dataset:bulk/d.parquet%23group-1"] == "input_damaged"


def test_csv_rows_with_other_widths_and_encodings(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_bytes(
        'id,text\na,软件包管理系统是发行版的核心。\nb,两,三\nc,"引号\n里的换行"\n'.encode("gb18030")
    )
    found = crawl(tmp_path / "b", dataset(tmp_path / "d.csv", columns={"id": "id"}, encoding="gb18030"))
    assert found.payloads["dataset:bulk/a"].decode() == "软件包管理系统是发行版的核心。"
    assert found.payloads["dataset:bulk/c"].decode() == "引号\n里的换行"
    assert found.reasons["dataset:bulk/d.csv%23line-3"] == "invalid_csv"


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("gb18030", "软件包管理系统是发行版的核心，它负责安装、升级和删除软件。"),
        ("big5", "套件管理系統是發行版的核心，它負責安裝、升級和移除軟體。"),
        ("shift_jis", "パッケージ管理システムは、ソフトウェアの導入と更新を行う仕組みです。"),
    ],
)
def test_lines_in_old_encodings_are_detected(tmp_path: Path, encoding: str, text: str) -> None:
    (tmp_path / "d.txt").write_bytes(f"{text}\n".encode(encoding) * 30)
    found = crawl(tmp_path / "b", dataset(tmp_path / "d.txt", layout="lines", columns={}))
    assert [payload.decode() for payload in found.payloads.values()] == [text]
    assert found.summary["not_taken"] == {"duplicate_url": 29}


def test_limits_end_the_reading(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_bytes(lines([{"id": n, "text": "x" * 10} for n in range(9)]))
    found = crawl(tmp_path / "b1", dataset(tmp_path / "d.jsonl", max_records=3))
    assert sorted(found.reasons.values(), key=str) == [None] * 3 + ["page_limit"]
    assert found.summary["limit"] == "page_limit"
    found = crawl(tmp_path / "b2", dataset(tmp_path / "d.jsonl", max_total_bytes=45))
    assert sorted(found.reasons.values(), key=str) == [None] * 4 + ["byte_limit"]


def test_nothing_at_all_is_an_error_that_says_why(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="names no file"):
        crawl(tmp_path / "b1", dataset(tmp_path / "*.jsonl"))
    (tmp_path / "d.jsonl").write_bytes(b"")
    with pytest.raises(BuildError, match="nothing was read at all"):
        crawl(tmp_path / "b2", dataset(tmp_path / "d.jsonl"))
    (tmp_path / "d.jsonl").write_bytes(lines([{"id": "a", "body": "x"}]))
    with pytest.raises(BuildError, match=r"kept nothing.*missing_column"):
        crawl(tmp_path / "b3", dataset(tmp_path / "d.jsonl"))


def test_the_digest_is_of_the_rows_not_of_their_order(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines(ROWS))
    first = crawl(tmp_path / "b1", dataset(tmp_path / "a.jsonl", columns={"id": "id"}))
    (tmp_path / "a.jsonl").write_bytes(lines(ROWS[::-1]))
    assert crawl(tmp_path / "b2", dataset(tmp_path / "a.jsonl", columns={"id": "id"})).digest == first.digest


def test_what_is_read_again_unchanged_is_not_stored_again(tmp_path: Path) -> None:
    crawls = [f"bulk@2026010{day}T000000Z" for day in (1, 2, 3)]
    rows = [{"id": n, "text": f"document {n} " * 50} for n in range(40)]
    path = tmp_path / "d.jsonl"
    path.write_bytes(lines(rows))
    source = dataset(path, columns={"id": "id"})
    first = crawl(tmp_path / "b1", source, crawls[0])
    rows[7]["text"] = "edited"
    path.write_bytes(lines([*rows[:20], *rows[21:], {"id": 99, "text": "new"}]))
    second = crawl(tmp_path / "b2", source, crawls[1], first.segment)
    assert second.payloads == {"dataset:bulk/7": b"edited", "dataset:bulk/99": b"new"}
    assert [row["revisit"] for row in second.rows.values()].count("identical_payload") == 38
    third = crawl(tmp_path / "b3", source, crawls[2], second.segment)
    assert third.payloads == {}
    row = third.rows["dataset:bulk/3"]
    assert (row["payload_crawl"], row["warc_file"]) == (crawls[0], None)
    assert row["payload_fetched_at"] == first.rows["dataset:bulk/3"]["fetched_at"]
    assert third.rows["dataset:bulk/7"]["payload_crawl"] == crawls[1]
    assert row["doc_id"] == first.rows["dataset:bulk/3"]["doc_id"]


def test_spilled_runs_merge_into_one_sorted_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from assets.sources.bulk import records

    rows = [{"id": f"{n * 7919 % 500:03d}", "text": f"t{n}"} for n in range(600)]
    (tmp_path / "d.jsonl").write_bytes(lines(rows))
    whole = crawl(tmp_path / "b1", dataset(tmp_path / "d.jsonl", columns={"id": "id"}))
    monkeypatch.setattr(records, "RUN_ROWS", 37)
    spilled = crawl(tmp_path / "b2", dataset(tmp_path / "d.jsonl", columns={"id": "id"}))
    assert spilled.digest == whole.digest
    assert len(spilled.kept) == 500
    assert spilled.summary["not_taken"] == {"duplicate_url": 100}
