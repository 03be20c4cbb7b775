"""Extraction and filters on plain files, with the pipelines of the graph.

    extract   HTML or text files, WARC, or JSONL of {"id", "html"} -> documents.jsonl, dropped.jsonl
    filter    JSONL of {"id", "text"}                              -> kept.jsonl, decisions.jsonl

The input is first cut into tasks in a scratch file inside the output folder, so that any number of
workers, on any executor, reads the same tasks; lines are written in order of id (kept.jsonl: of the input).
"""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from assets.build import BuildError, PipelineExecutor, Progress, SilentProgress
from assets.documents.engine import merged_rows, run_pipeline
from assets.documents.extraction import Extraction
from assets.documents.formats.media_types import Declared
from assets.documents.pipelines import extraction_pipeline, filtering_pipeline
from assets.documents.recipe import Filters
from assets.machine_faults import raise_machine_fault
from assets.plain_files import JSONL_SUFFIXES, Ids, RowGroups, input_files, read_lines, shown_name, write_lines
from assets.schemas import DOCUMENTS
from assets.tables import schema

HTML_SUFFIXES = (".html", ".htm", ".xhtml", ".txt")
WARC_SUFFIXES = (".warc", ".warc.gz")
FORMATS = ("html", "text", "code")
ROWS_PER_TASK = 128
PAYLOADS = schema(
    {
        "doc_id": pa.string(),
        "url": pa.string(),
        "content_type": pa.string(),
        "content_sha256": pa.string(),
        "payload": pa.binary(),
    }
)
"""The scratch file of an extraction."""


@dataclass(frozen=True)
class Summary:
    """What a stage did with its input: documents = kept + sum(dropped); `skipped` were no documents."""

    documents: int
    kept: int
    dropped: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    """WARC records that hold no page: requests, revisits, answers other than 2xx."""


class PayloadReader(PipelineStep):
    """One task is one row group of the scratch file."""

    type = "READER"
    name = "payloads"

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Every payload of the task."""
        for row in pq.ParquetFile(self.path).read_row_group(rank).to_pylist():
            yield Document(text="", id=row["doc_id"], metadata=row)


def extract_files(
    source: Path,
    output: Path,
    recipe: Extraction,
    declared: Declared = "html",
    workers: int = 1,
    progress: Progress | None = None,
    executor: PipelineExecutor | None = None,
) -> Summary:
    """Text of every page of `source` into documents.jsonl, and why there is none into dropped.jsonl."""
    progress = progress or SilentProgress()
    files = input_files(source, (*HTML_SUFFIXES, *WARC_SUFFIXES, *JSONL_SUFFIXES))
    skipped: Counter[str] = Counter()
    with _scratch(output) as scratch:
        groups = RowGroups(
            scratch / "payloads.parquet", PAYLOADS, recipe.captures_per_task, lambda row: len(row["payload"])
        )
        for row in _pages(files, source, recipe.max_payload_bytes, skipped):
            groups.add(row)
            if groups.rows % 1000 == 0:
                progress.update(0, None, f"{groups.rows:,} pages read")
        groups.close()
        if not groups.rows:
            raise BuildError(f"{source}: holds no page (skipped: {dict(skipped) or 'nothing'})")
        parts = scratch / "parts"
        pipeline = extraction_pipeline(PayloadReader(groups.path), declared, parts, recipe)
        written = run_pipeline(pipeline, groups.count, workers, scratch, parts, progress, executor)
        keys = ("url", "format", "title", "text")
        rows = ({"id": r["doc_id"]} | {k: r[k] for k in keys} for r in merged_rows(written) if not r["drop_reason"])
        kept = write_lines(output / "documents.jsonl", rows)
        dropped = _write_drops(output / "dropped.jsonl", written, ("url", "drop_reason", "detail"))
    return Summary(groups.rows, kept, dropped, dict(sorted(skipped.items())))


def filter_files(
    source: Path,
    output: Path,
    recipe: Filters,
    workers: int = 1,
    progress: Progress | None = None,
    executor: PipelineExecutor | None = None,
) -> Summary:
    """A decision per document into decisions.jsonl; what stays, with its text, into kept.jsonl."""
    progress = progress or SilentProgress()
    files, ids = input_files(source, JSONL_SUFFIXES), Ids()
    with _scratch(output) as scratch:
        groups = RowGroups(scratch / "texts.parquet", DOCUMENTS, ROWS_PER_TASK, lambda row: len(row["text"]))
        for line in (line for path in files for line in read_lines(path)):
            kind = line.text("format", "text")
            if kind not in FORMATS:
                raise BuildError(f"{line.place}: 'format' must be one of {', '.join(FORMATS)}, it is {kind!r}")
            doc_id = ids.new(line.row.get("id"), line.place)
            groups.add({"doc_id": doc_id, "url": line.row.get("url"), "format": kind, "text": line.text("text")})
        groups.close()
        if not groups.rows:
            raise BuildError(f"{source}: holds no document")
        parts = scratch / "parts"
        tasks = [(groups.path, number) for number in range(groups.count)]
        pipeline = filtering_pipeline(tasks, parts, recipe)
        written = run_pipeline(pipeline, len(tasks), workers, scratch, parts, progress, executor)
        write_lines(output / "decisions.jsonl", map(_decision, merged_rows(written)))
        kept = write_lines(output / "kept.jsonl", _kept_rows(groups.path, written))
        dropped = Counter(row["drop_reason"] for row in merged_rows(written) if row["drop_reason"])
    return Summary(groups.rows, kept, dict(sorted(dropped.items())))


@contextmanager
def _scratch(output: Path) -> Iterator[Path]:
    """A folder beside the results, on the same (shared) file system; gone when the stage ends, however it ends."""
    scratch = output / ".scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        yield scratch.resolve()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _pages(files: list[Path], source: Path, max_bytes: int, skipped: Counter[str]) -> Iterator[dict[str, Any]]:
    """Rows of PAYLOADS. Of a payload over the limit only the start is kept: enough to be dropped for it."""
    ids = Ids()
    root = source if source.is_dir() else source.parent
    for path in files:
        name = path.name.lower()
        if name.endswith(JSONL_SUFFIXES):
            for line in read_lines(path):
                payload = line.text("html").encode()
                url, content_type = line.row.get("url"), line.row.get("content_type", "text/html; charset=utf-8")
                yield _page(ids.new(line.row.get("id"), line.place), url, content_type, payload)
        elif name.endswith(WARC_SUFFIXES):
            for record_id, url, content_type, payload in _records(path, max_bytes, skipped):
                yield _page(ids.new(record_id, str(path)), url, content_type, payload)
        else:
            relative = shown_name(path.relative_to(root).as_posix())
            with path.open("rb") as file:
                payload = file.read(max_bytes + 1)
            content_type = "text/plain" if name.endswith(".txt") else "text/html"
            yield _page(ids.new(relative, str(path)), None, content_type, payload)


def _page(doc_id: str, url: str | None, content_type: str | None, payload: bytes) -> dict[str, Any]:
    sha256 = hashlib.sha256(payload).hexdigest()
    return {
        "doc_id": doc_id,
        "url": url,
        "content_type": content_type,
        "content_sha256": sha256,
        "payload": payload,
    }


def _records(path: Path, max_bytes: int, skipped: Counter[str]) -> Iterator[tuple[str, str | None, str | None, bytes]]:
    """Record id, URL, content type and decoded payload of each page of a WARC file, as the graph's sources read it.

    A file that is cut off or damaged is an error here: nobody looks at a command's output as at a crawl's.
    """
    from assets.sources.bulk.warc_import import member_record
    from assets.sources.bulk_config import WarcSource
    from assets.sources.streams.decompression import InputError
    from assets.sources.streams.warc_members import open_members

    keys = {"kind": "warc", "licence": "-", "domain": "stage", "paths": [str(path)], "max_bytes_per_record": max_bytes}
    source = WarcSource.model_validate(keys)
    number = 0
    try:
        for number, member in enumerate(open_members(lambda: path.open("rb"), max_bytes), 1):
            if member.problem:
                raise InputError(member.reason, member.problem)
            place = f"{path.name}:{number}"
            record = member_record(member, place, "stage", source, frozenset(source.record_types))
            if isinstance(record, str):
                skipped[record.removeprefix("record_type_")] += 1
            elif record.drop_reason not in (None, "too_large"):
                skipped[record.drop_reason] += 1
            else:  # of a payload over the limit any start will do
                payload = member.content[: max_bytes + 1] if record.payload is None else record.payload
                yield record.record_id or place, record.url, record.content_type, payload
        if not number:
            raise InputError("input_damaged", "no WARC record in it")
    except (InputError, OSError) as error:
        raise_machine_fault(error)
        raise BuildError(f"{path}: not readable as WARC after record {max(0, number - 1)}: {error}") from None


def _decision(row: dict[str, Any]) -> dict[str, Any]:
    keys = ("drop_reason", "failure", "language", "language_score", "script", "quality", "characters")
    return {"id": row["doc_id"]} | {key: row[key] for key in keys} | {"signals": dict(row["signals"])}


def _kept_rows(texts: Path, parts: list[Path]) -> Iterator[dict[str, Any]]:
    """Kept documents in the order of the input. Task n wrote the decisions of row group n."""
    file = pq.ParquetFile(texts)
    for number, part in enumerate(parts):
        decided = pq.read_table(part, columns=["doc_id", "drop_reason", "language", "script", "quality"]).to_pylist()
        kept = {row["doc_id"]: row for row in decided if row["drop_reason"] is None}
        for row in file.read_row_group(number, columns=["doc_id", "url", "format", "text"]).to_pylist():
            if decision := kept.get(row["doc_id"]):
                measured = {key: decision[key] for key in ("language", "script", "quality")}
                yield {"id": row["doc_id"], "url": row["url"], "format": row["format"], "text": row["text"]} | measured


def _write_drops(path: Path, parts: list[Path], keys: tuple[str, ...]) -> dict[str, int]:
    reasons: Counter[str] = Counter()

    def rows() -> Iterator[dict[str, Any]]:
        for row in merged_rows(parts):
            if row["drop_reason"]:
                reasons[row["drop_reason"]] += 1
                yield {"id": row["doc_id"]} | {key: row[key] for key in keys}

    write_lines(path, rows())
    return dict(sorted(reasons.items()))
