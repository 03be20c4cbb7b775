"""Extraction and filters on plain files: the graph's result, whatever the input's form and the number of workers."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import brotli
import pytest

from assets.build import BuildError
from assets.documents.extraction import Extraction
from assets.documents.recipe import Filters
from assets.documents.standalone import Summary, _records, extract_files, filter_files
from assets.sources.warc import WarcFolder
from tests.assets.documents.crawls import CHINESE, CODE, DAY, ENGLISH, FRENCH, crawl_of, page
from tests.assets.documents.test_stages import run_both
from tests.assets.sources.bulk.bulk import crawl, table
from tests.assets.sources.bulk.warc_files import Page, warc_bytes

PAGES = {f"{n}.html": page(f"Part {n}. {ENGLISH}" if n % 2 else f"第{n}节。{CHINESE}", f"Page {n}") for n in range(9)}
PAGES |= {"empty.html": b"<html><body><nav>Home</nav></body></html>", "fr.html": page(FRENCH)}
SITE = {f"https://s.example/{name}": payload for name, payload in PAGES.items()}
SMALL_TASKS = Extraction.model_validate({"captures_per_task": 2})


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def folder_of(folder: Path, pages: Mapping[str, bytes] = PAGES) -> Path:
    folder.mkdir(parents=True)
    for name, payload in pages.items():
        (folder / name).write_bytes(payload)
    return folder


def jsonl_of(folder: Path) -> Path:
    return write(folder / "pages.jsonl", [{"id": name, "html": body.decode()} for name, body in PAGES.items()])


def texts(output: Path) -> dict[str, str]:
    return {row["title"]: row["text"] for row in read(output / "documents.jsonl")}


def test_every_form_of_input_gives_the_texts_of_the_graph(tmp_path: Path) -> None:
    graph = run_both(tmp_path / "graph", crawl_of(tmp_path / "crawl", SITE), workers=1)
    wanted = {row["title"]: row["text"] for row in graph["documents"] if row["drop_reason"] is None}
    warc = tmp_path / "warc"
    warc.mkdir()
    with WarcFolder(warc, {"software": "tests"}) as out:
        for url, payload in SITE.items():
            out.write_response(url, 200, [("Content-Type", "text/html")], payload, DAY)
        out.write_response("https://s.example/gone", 404, [("Content-Type", "text/html")], page(ENGLISH, "Gone"), DAY)
    sources = {"folder": folder_of(tmp_path / "html"), "jsonl": jsonl_of(tmp_path / "j"), "warc": warc}
    for name, source in sources.items():
        summary = extract_files(source, tmp_path / "out" / name, Extraction())
        skipped = {"http_404": 1, "warcinfo": 1} if name == "warc" else {}
        assert summary == Summary(11, 10, {"empty_extraction": 1}, skipped), name
        assert texts(tmp_path / "out" / name) == wanted, name
    assert [row["url"] for row in read(tmp_path / "out/warc/dropped.jsonl")] == ["https://s.example/empty.html"]
    assert read(tmp_path / "out/folder/dropped.jsonl")[0] == {
        "id": "empty.html",
        "url": None,
        "drop_reason": "empty_extraction",
        "detail": "no text outside navigation",
    }


def test_decisions_are_those_of_the_graph_and_workers_leave_no_trace(tmp_path: Path) -> None:
    graph = run_both(tmp_path / "graph", crawl_of(tmp_path / "crawl", SITE), workers=1)
    source = folder_of(tmp_path / "html")
    for workers in (1, 2):
        out = tmp_path / f"out{workers}"
        extract_files(source, out, SMALL_TASKS, workers=workers)
        summary = filter_files(out / "documents.jsonl", out, Filters(), workers)
    assert summary == Summary(10, 9, {"language_not_wanted": 1})
    for name in ("documents.jsonl", "dropped.jsonl", "kept.jsonl", "decisions.jsonl"):
        assert (tmp_path / "out1" / name).read_bytes() == (tmp_path / "out2" / name).read_bytes()
    by_url = {row["url"]: row for row in graph["decisions"]}
    for row in read(tmp_path / "out1/decisions.jsonl"):
        wanted = by_url[f"https://s.example/{row['id']}"]
        assert row["signals"] == dict(wanted["signals"])
        assert (row["drop_reason"], row["quality"]) == (wanted["drop_reason"], wanted["quality"])
    kept = read(tmp_path / "out1/kept.jsonl")
    assert {row["text"] for row in kept} <= set(texts(tmp_path / "out1").values())
    assert {row["language"] for row in kept} == {"zh", "en"}
    assert not list(tmp_path.rglob(".scratch"))


def test_tasks_are_cut_by_rows_and_the_recipe_decides(tmp_path: Path) -> None:
    rows = [{"id": n, "text": f"{n} {ENGLISH}"} for n in range(130)] + [{"id": "c", "text": CODE, "format": "code"}]
    source = write(tmp_path / "in.jsonl", rows)
    assert filter_files(source, tmp_path / "a", Filters()).kept == 131
    strict = Filters.model_validate({"en": {"min_characters": 10_000}})
    assert filter_files(source, tmp_path / "b", strict) == Summary(131, 1, {"too_short": 130})
    assert [row["id"] for row in read(tmp_path / "a/kept.jsonl")] == [*map(str, range(130)), "c"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "b"}, "in.jsonl line 2: 'text' must be a string, it is missing"),
        ({"id": "a", "text": "again"}, "in.jsonl line 2: id 'a' was used before, at .*in.jsonl line 1"),
        ({"id": "b", "text": "x", "format": "pdf"}, "line 2: 'format' must be one of html, text, code, it is 'pdf'"),
    ],
)
def test_bad_lines_are_named_and_no_result_is_left(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    source = write(tmp_path / "in.jsonl", [{"id": "a", "text": ENGLISH}, row])
    with pytest.raises(BuildError, match=message):
        filter_files(source, tmp_path / "out", Filters())
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("suffix", [".warc.gz", ".warc"])
def test_a_warc_file_that_is_cut_anywhere_is_an_error(tmp_path: Path, suffix: str) -> None:
    """Wherever it is cut but between two records: there a file ends well, and nobody can tell. So it does before the
    empty lines behind a record, for every reader of the graph."""
    with WarcFolder(tmp_path, {"software": "tests"}) as out:
        for n in range(2):
            html = page(f"{n}. {ENGLISH}")
            out.write_response(f"https://s.example/{n}", 200, [("Content-Type", "text/html")], html, DAY)
    whole = (tmp_path / "crawl-00000.warc.gz").read_bytes()
    starts = [n for n in range(len(whole)) if whole[n : n + 4] == b"\x1f\x8b\x08\x00"]
    if suffix == ".warc":
        members = [gzip.decompress(whole[a:b]) for a, b in pairwise([*starts, len(whole)])]
        whole, starts = b"".join(members), [len(b"".join(members[:n])) for n in range(3)]
    path = tmp_path / f"cut{suffix}"
    ends = {end - n for end in (*starts, len(whole)) for n in range(5)} if suffix == ".warc" else set(starts)
    for cut in {*range(1, len(whole), 7), *range(len(whole) - 12, len(whole))} - ends:
        path.write_bytes(whole[:cut])
        with pytest.raises(BuildError, match=f"cut{suffix}: not readable as WARC"):
            list(_records(path, 10_000_000, Counter()))
    path.write_bytes(whole)
    assert len(list(_records(path, 10_000_000, Counter()))) == 2


def test_a_warc_file_is_read_as_the_graph_reads_it(tmp_path: Path) -> None:
    """The same records, the same payloads: encodings, chunks, what was cut by its crawler, what its owner keeps back."""
    html = page(ENGLISH)
    chunked = ("Transfer-Encoding", "chunked")
    whole = b"%x\r\n%s\r\n0\r\n\r\n" % (len(html), html)
    pages = [
        Page("https://s.example/plain", html),
        Page("https://s.example/brotli", brotli.compress(html), headers=(("Content-Encoding", "br"),)),
        Page("https://s.example/chunks", whole, headers=(chunked,)),
        Page("https://s.example/not-chunks", html, headers=(chunked,)),
        Page("https://s.example/no-brotli", b"\xff" * 99, headers=(("Content-Encoding", "br"),)),
        Page("https://s.example/noai", html, headers=(("X-Robots-Tag", "noai"),)),
        Page("https://s.example/part", html, status="206 Partial Content"),
        Page("https://s.example/cut", html, warc_headers=(("WARC-Truncated", "length"),)),
    ]
    path = tmp_path / "in.warc.gz"
    path.write_bytes(warc_bytes(pages)[0])
    graph = crawl(tmp_path / "graph", table("warc", paths=[str(path)]))
    skipped: Counter[str] = Counter()
    alone = {str(url): payload for _, url, _, payload in _records(path, 10_000_000, skipped)}
    assert alone == graph.payloads == {url.url: html for url in pages[:4]}
    reasons = Counter(reason for reason in graph.reasons.values() if reason)
    assert set(reasons) == {"damaged_payload", "opted_out", "http_206", "truncated_payload"}
    assert skipped == reasons + Counter({"warcinfo": 1, "request": 8})


def test_what_is_no_warc_and_an_input_without_pages_are_errors(tmp_path: Path) -> None:
    (tmp_path / "none.warc.gz").write_bytes(b"<html>not a WARC file</html>")
    with pytest.raises(BuildError, match=r"none\.warc\.gz: not readable as WARC after record 0"):
        extract_files(tmp_path / "none.warc.gz", tmp_path / "out", Extraction())
    with WarcFolder(tmp_path, {"software": "tests"}):
        pass
    with pytest.raises(BuildError, match="holds no page"):
        extract_files(tmp_path / "crawl-00000.warc.gz", tmp_path / "out", Extraction())


def test_a_page_over_the_limit_is_dropped_for_it(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "in", {"big.html": page(ENGLISH * 50), "ok.html": page(ENGLISH)})
    recipe = Extraction.model_validate({"max_payload_bytes": 2000})
    assert extract_files(source, tmp_path / "out", recipe) == Summary(2, 1, {"too_large": 1})
