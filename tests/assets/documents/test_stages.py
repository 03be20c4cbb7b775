"""Both stages over a small crawl: in = kept + dropped, one row each, the same on any number of workers."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from datatrove.data import Document

from assets.build import BuildError, PipelineExecutor, Segment, StageReport
from assets.documents import blocks
from assets.documents.defs import RECIPES, extracted_documents, filtered_documents
from assets.documents.engine import merge_parts, write_part
from assets.documents.extraction import Extracted, Extraction
from assets.documents.formats.unreadable import UnreadableError
from assets.documents.selection import select_captures
from assets.schemas import DOCUMENTS, FILTERED
from orchestration.identity.digest import data_version
from tests.assets.documents.crawls import CHINESE, CODE, ENGLISH, FRENCH, PARTITION, TRADITIONAL, crawl_of, page
from tests.builds import make_build, segment_of

PAGES = {
    **{f"https://s.example/en/{n}": page(f"Part {n}. {ENGLISH}", f"Part {n}") for n in range(7)},
    **{f"https://s.example/zh/{n}": page(f"第{n}节。{CHINESE}", f"第{n}节") for n in range(7)},
    "https://s.example/tw": page(TRADITIONAL, "軟體套件"),
    "https://s.example/fr": page(FRENCH, "Paquets"),
    "https://s.example/short": page("Nothing to see here.", "Short"),
    "https://s.example/empty": b"<html><body><nav>Home</nav></body></html>",
    "https://s.example/binary": b"\x89PNG\0\0\0",
}


def run_both(
    folder: Path,
    crawl: tuple[Segment, Segment],
    workers: int,
    executor: PipelineExecutor | None = None,
    **recipes: Any,
) -> dict[str, Any]:
    recipes = {"extraction": {"captures_per_task": 4}} | recipes
    first = make_build(folder / "extract", "extracted_documents", crawl, recipes, PARTITION, workers, executor=executor)
    extracted = extracted_documents(first)
    documents = segment_of(first.output, "extracted_documents", PARTITION)
    second = make_build(
        folder / "filter", "filtered_documents", [documents], recipes, PARTITION, workers, executor=executor
    )
    filtered = filtered_documents(second)
    return {
        "extracted": extracted,
        "filtered": filtered,
        "versions": (data_version(first.output)[0], data_version(second.output)[0]),
        "documents": documents.table("documents").to_pylist(),
        "decisions": pq.read_table(second.output / "decisions.parquet").to_pylist(),
    }


@pytest.fixture(scope="module")
def crawl(tmp_path_factory: pytest.TempPathFactory) -> tuple[Segment, Segment]:
    return crawl_of(tmp_path_factory.mktemp("crawl"), PAGES)


@pytest.fixture(scope="module")
def built(crawl: tuple[Segment, Segment], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_both(tmp_path_factory.mktemp("two"), crawl, workers=2)


def accounts_add_up(report: StageReport) -> bool:
    return report.documents_in == (report.documents_kept or 0) + sum(report.dropped.values())


def test_every_capture_is_extracted_or_has_a_reason(built: dict[str, Any]) -> None:
    report: StageReport = built["extracted"]
    assert accounts_add_up(report)
    assert (report.documents_in, report.dropped) == (len(PAGES), {"empty_extraction": 1, "not_text": 1})
    rows = {row["url"]: row for row in built["documents"]}
    assert rows.keys() == PAGES.keys()
    tw = rows["https://s.example/tw"]
    assert (tw["title"], tw["text"]) == ("軟體套件", f"軟體套件\n\n{TRADITIONAL}")
    assert (tw["format"], tw["domain"], tw["licence"]) == ("html", "documentation", "CC0-1.0")
    assert rows["https://s.example/empty"]["text"] == ""


def test_every_document_has_one_decision_with_its_signals(built: dict[str, Any]) -> None:
    report: StageReport = built["filtered"]
    assert accounts_add_up(report)
    assert report.dropped == {"language_not_wanted": 1, "too_short": 1}
    rows = {row["url"]: row for row in built["decisions"]}
    assert Counter(row["language"] for row in rows.values() if not row["drop_reason"]) == {"en": 7, "zh": 8}
    assert rows["https://s.example/tw"]["script"] == "Hant"
    french = rows["https://s.example/fr"]
    assert french["drop_reason"] == "language_not_wanted"
    assert dict(french["signals"])["stop_words"] >= 0
    assert [name for name, _ in french["signals"]] == sorted(name for name, _ in french["signals"])


def test_tables_are_sorted_and_have_the_public_schema(built: dict[str, Any]) -> None:
    for table in ("documents", "decisions"):
        ids = [row["doc_id"] for row in built[table]]
        assert ids == sorted(set(ids))
    assert list(built["documents"][0]) == DOCUMENTS.names
    assert list(built["decisions"][0]) == FILTERED.names


def test_workers_and_tasks_leave_no_trace(
    crawl: tuple[Segment, Segment], built: dict[str, Any], tmp_path: Path
) -> None:
    other = run_both(tmp_path, crawl, workers=1, extraction={"captures_per_task": 100})
    assert other["versions"] == built["versions"]
    assert other["filtered"].as_json() == built["filtered"].as_json()
    assert other["filtered"].samples == built["filtered"].samples


def test_reports_show_keeps_and_drops_with_the_value_that_tripped(built: dict[str, Any]) -> None:
    kept, dropped = built["filtered"].samples
    assert {row[0] for row in kept.rows} == {"en", "zh"}
    rules = {row[0]: row[1] for row in dropped.rows}
    assert rules["too_short"].startswith("characters ") and rules["too_short"].endswith(" < 200")
    for report in (built["extracted"], built["filtered"]):
        assert all(png.startswith(b"\x89PNG") and len(png) < 40_000 for png in report.plots.values())


def test_code_of_a_code_source_is_kept_verbatim(tmp_path: Path) -> None:
    pages = {"https://s.example/a.py": CODE.encode(), "https://s.example/b.py": b"# nothing\n"}
    result = run_both(tmp_path, crawl_of(tmp_path / "c", pages, declared="code", content_type="text/x-python"), 1)
    assert {row["url"]: row["text"] for row in result["documents"]}["https://s.example/a.py"] == CODE
    assert result["filtered"].stats["languages_kept"] == {"code": 1}
    assert result["filtered"].dropped == {"too_short": 1}


def test_only_added_and_changed_pages_are_read(tmp_path: Path) -> None:
    pages = {f"https://s.example/{n}": page(ENGLISH) for n in "abc"}
    changes = {"https://s.example/a": "unchanged", "https://s.example/b": "changed"}
    path, tasks = select_captures(*crawl_of(tmp_path / "c", pages, changes=changes), tmp_path, 1)
    assert pq.read_table(path)["url"].to_pylist() == ["https://s.example/b", "https://s.example/c"]
    assert tasks == 2


def test_a_crawl_without_changes_gives_empty_tables(tmp_path: Path) -> None:
    quiet = crawl_of(tmp_path / "c", {"https://s.example/": page(ENGLISH)}, changes={"https://s.example/": "unchanged"})
    result = run_both(tmp_path, quiet, workers=2)
    assert (result["documents"], result["decisions"]) == ([], [])
    assert result["filtered"].documents_in == 0


def test_a_delta_of_another_crawl_is_refused(tmp_path: Path) -> None:
    raw, _ = crawl_of(tmp_path / "a", {"https://s.example/": page(ENGLISH)})
    _, changed = crawl_of(tmp_path / "b", {"https://s.example/": page(CHINESE)})
    _, longer = crawl_of(tmp_path / "c", {"https://s.example/": page(ENGLISH), "https://s.example/x": page(ENGLISH)})
    with pytest.raises(BuildError, match="differ on the doc_id"):
        select_captures(raw, changed, tmp_path, 10)
    with pytest.raises(BuildError, match="lists 1 added or changed pages"):
        select_captures(raw, longer, tmp_path, 10)


def test_a_repeated_doc_id_is_refused(tmp_path: Path) -> None:
    row = {"doc_id": "a", "url": "u"}
    for rank in (0, 1):
        write_part(tmp_path, rank, [row], blocks.DOCUMENT_PART)
    with pytest.raises(BuildError, match="occurs twice"):
        merge_parts(sorted(tmp_path.glob("part-*")), tmp_path / "merged.parquet", DOCUMENTS, lambda row: None)


# --- what a hostile page may do: the stage goes on and the page gets a reason


def captures(*payloads: bytes) -> Iterator[Document]:
    for number, payload in enumerate(payloads):
        yield Document(
            "", str(number), metadata={"payload": payload, "content_type": "text/html", "doc_id": str(number)}
        )


def outcomes(recipe: Extraction, *payloads: bytes) -> list[tuple[str | None, str]]:
    extractor = blocks.SandboxedExtractor("html", recipe)
    return [(d.metadata["drop_reason"], d.metadata["detail"]) for d in extractor.run(captures(*payloads))]


def test_a_parser_that_hangs_costs_one_document() -> None:
    links = b"<p><a href=/>another page of the site</a>" * 100
    # mostly links, so the content is guessed; that is quadratic in the depth of the page: minutes
    hostile = links + b"<div>" * 100_000 + ENGLISH.encode() + b"</div>" * 100_000
    good = page(ENGLISH)
    found = outcomes(Extraction(timeout_s=2), good, hostile, good)
    assert [reason for reason, _ in found] == [None, "extraction_timeout", None]


def test_a_parser_that_dies_or_raises_costs_one_document(monkeypatch: pytest.MonkeyPatch) -> None:
    def parser(payload: bytes, *_: Any) -> Extracted:
        if payload == b"die":
            os._exit(1)
        if payload == b"raise":
            raise RecursionError("too deep")
        return Extracted("html", text=payload.decode())

    monkeypatch.setattr(blocks, "extract", parser)
    found = outcomes(Extraction(timeout_s=3), b"good", b"die", b"raise", b"good")
    assert [reason for reason, _ in found] == [None, "extraction_failed", "extraction_failed", None]
    assert found[2][1] == "RecursionError: too deep"


def first_time(marker: Path) -> bool:
    """Whether this is the first process to ask."""
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


@pytest.mark.parametrize("how", ["killed", "stopped", "out_of_memory"])
def test_what_the_machine_does_to_a_parser_once_leaves_no_trace(
    how: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def parser(payload: bytes, *_: Any) -> Extracted:
        if payload == b"unlucky" and first_time(tmp_path / "met"):
            if how == "out_of_memory":
                raise MemoryError
            os.kill(os.getpid(), signal.SIGKILL if how == "killed" else signal.SIGSTOP)
        return Extracted("html", text=payload.decode())

    monkeypatch.setattr(blocks, "extract", parser)
    found = outcomes(Extraction(timeout_s=1), b"good", b"unlucky", b"good")
    assert found == [(None, "")] * 3
    assert (tmp_path / "met").exists()


def test_a_disk_error_in_a_parser_fails_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    def parser(payload: bytes, *_: Any) -> Extracted:
        try:
            raise OSError(errno.EIO, "Input/output error")
        except OSError:
            raise UnreadableError("broken_document", "not a whole archive") from None

    monkeypatch.setattr(blocks, "extract", lambda *arguments: parser(*arguments))
    with pytest.raises(OSError, match="Input/output error"):
        outcomes(Extraction(timeout_s=5), b"page")


def test_a_page_that_takes_all_memory_is_judged_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def parser(payload: bytes, *_: Any) -> Extracted:
        if payload == b"greedy":
            bytearray(16 << 40)  # more than any address space
        return Extracted("html", text=payload.decode())

    monkeypatch.setattr(blocks, "extract", parser)
    found = outcomes(Extraction(timeout_s=5), b"greedy", b"good")
    assert found[0] == ("extraction_failed", "needs more than 2 GiB of memory")
    assert found[1] == (None, "")


def test_a_page_that_waits_for_ever_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    def parser(payload: bytes, *_: Any) -> Extracted:
        if payload == b"asleep":
            time.sleep(3600)
        return Extracted("html", text=payload.decode())

    monkeypatch.setattr(blocks, "extract", parser)
    found = outcomes(Extraction(timeout_s=1), b"asleep", b"good")
    assert found == [("extraction_timeout", "no result in 4 s"), (None, "")]


def test_finished_tasks_are_not_repeated(crawl: tuple[Segment, Segment], built: dict[str, Any], tmp_path: Path) -> None:
    build = make_build(tmp_path, "extracted_documents", crawl, {"extraction": {"captures_per_task": 4}}, PARTITION)
    extracted_documents(build)
    marks = {path: path.stat().st_mtime_ns for path in (build.scratch / "parts").iterdir()}
    next((build.scratch / "datatrove" / "completions").iterdir()).unlink()
    extracted_documents(build)
    again = {path: path.stat().st_mtime_ns for path in (build.scratch / "parts").iterdir()}
    assert sum(marks[path] != again[path] for path in marks) == 1
    assert data_version(build.output)[0] == built["versions"][0]


def test_the_recipe_tables_are_exported() -> None:
    assert set(RECIPES) == {"extraction", "filters"}
