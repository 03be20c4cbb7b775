"""The datatrove blocks of both stages: readers, the sandboxed extractor, the writer of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.extractors.base import ExtractorSandbox

from assets.build import Segment
from assets.documents.engine import write_part
from assets.documents.extraction import Extracted, Extraction, extract
from assets.documents.formats.media_types import Declared, format_of
from assets.documents.report import excerpt
from assets.documents.sandbox import MEMORY_BYTES, Died, Hung, Spent, alone
from assets.machine_faults import machine_fault
from assets.schemas import DOCUMENTS, FILTERED
from assets.sources.warc import read_capture

Row = dict[str, Any]

DOCUMENT_PART = DOCUMENTS.append(pa.field("detail", pa.string()))
"""A part of extracted_documents: the table, and why a document was dropped in words."""

DECISION_PART = FILTERED.append(pa.field("failure", pa.string())).append(pa.field("excerpt", pa.string()))
"""A part of filtered_documents: the table, the broken rule in words, and the start of the text for samples."""


class CaptureReader(PipelineStep):
    """Captures of one row group of the selection, each with its payload from the WARC file."""

    type = "READER"
    name = "captures"

    def __init__(self, selected: Path, crawl: Segment) -> None:
        super().__init__()
        self.selected = selected
        self.crawl = Segment(crawl.asset, crawl.partition, crawl.version, dict(crawl.files))

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """One task is one row group."""
        for row in pq.ParquetFile(self.selected).read_row_group(rank).to_pylist():
            yield Document(text="", id=row["doc_id"], metadata=row | {"payload": read_capture(self.crawl, row)})


class SandboxedExtractor(PipelineStep):
    """Extraction in a process of its own: a parser that hangs or dies costs one document, not the stage.

    What happened to that process is no verdict on the page yet: it is tried again alone (sandbox.py).
    """

    type = "EXTRACTOR"
    name = "main content"

    def __init__(self, declared: Declared, recipe: Extraction) -> None:
        super().__init__()
        self.declared: Declared = declared
        self.recipe = recipe

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Every document comes out, extracted or with its drop reason."""
        warm_up: Any = (b"<p>warm</p>", "text/html")  # a tuple is passed on as arguments
        with ExtractorSandbox(timeout=self.recipe.timeout_s, warmup_text=warm_up) as sandbox:
            for document in data:
                with self.track_time():
                    result = self._extract(sandbox, document)
                self.stat_update("total", f"dropped_{result.drop_reason}" if result.drop_reason else "forwarded")
                document.text = result.text
                document.metadata |= {
                    "format": result.format,
                    "title": result.title or document.metadata.get("title") or "",
                    "drop_reason": result.drop_reason,
                    "detail": result.detail,
                }
                yield document

    def _extract(self, sandbox: ExtractorSandbox, document: Document) -> Extracted:
        payload, content_type = document.metadata.pop("payload"), document.metadata["content_type"]
        if len(payload) > self.recipe.max_payload_bytes:  # not worth a pipe
            return extract(payload, content_type, self.declared, self.recipe)
        try:  # an error that is returned is raised
            return sandbox.process_document((payload, content_type), self._guarded)
        except (TimeoutError, EOFError, BrokenPipeError, ConnectionResetError, MemoryError):
            # The page did it, or somebody who killed or stopped the process, or others who took the memory.
            return self._alone(payload, content_type)

    def _alone(self, payload: bytes, content_type: str | None) -> Extracted:
        """A second opinion, in a process of its own under limits: only what happens there is the page's doing."""

        def failed(reason: str, detail: object) -> Extracted:
            return Extracted(format_of(content_type, self.declared), drop_reason=reason, detail=str(detail))

        try:
            result = alone(self._guarded, (payload, content_type), self.recipe.timeout_s)
        except (Spent, Hung) as error:
            return failed("extraction_timeout", error)
        except Died as error:
            return failed("extraction_failed", error)
        if isinstance(result, MemoryError):
            return failed("extraction_failed", f"needs more than {MEMORY_BYTES >> 30} GiB of memory")
        if isinstance(result, OSError):
            raise result
        return result

    def _guarded(self, payload: bytes, content_type: str | None) -> Extracted | OSError | MemoryError:
        """Runs in the sandbox, which an exception would end; a fault of the machine is a result too, to be raised."""
        try:
            return extract(payload, content_type, self.declared, self.recipe)
        except Exception as error:
            if fault := machine_fault(error):
                return fault if isinstance(fault, OSError) else MemoryError(str(fault))
            said = f"{type(error).__name__}: {error}"[:300]
            return Extracted(format_of(content_type, self.declared), drop_reason="extraction_failed", detail=said)


def document_row(document: Document) -> Row:
    """A row of DOCUMENT_PART."""
    return {**document.metadata, "text": document.text}


def decision_row(document: Document) -> Row:
    """A row of DECISION_PART."""
    text, metadata = document.text, document.metadata
    return {
        **metadata,
        "signals": sorted(metadata["signals"].items()),
        "characters": len(text),
        "utf8_bytes": len(text.encode()),
        "excerpt": excerpt(text),
    }


class DocumentReader(PipelineStep):
    """Extracted documents that were not dropped, one row group of documents.parquet per task."""

    type = "READER"
    name = "extracted documents"

    def __init__(self, groups: list[tuple[Path, int]]) -> None:
        super().__init__()
        self.groups = groups

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """One task is one row group of one file."""
        path, group = self.groups[rank]
        columns = ["doc_id", "url", "source", "crawl", "domain", "format", "text", "drop_reason"]
        for row in pq.ParquetFile(path).read_row_group(group, columns=columns).to_pylist():
            if row.pop("drop_reason") is None:
                yield Document(text=row.pop("text"), id=row["doc_id"], metadata=row)


class RowWriter(PipelineStep):
    """Last block and exclusion writer of the filters at once: every document becomes one row of the task's part."""

    type = "WRITER"
    name = "rows"

    def __init__(self, parts: Path, part_schema: pa.Schema, to_row: Callable[[Document], Row]) -> None:
        super().__init__()
        self.parts = parts
        self.part_schema = part_schema
        self.to_row = to_row
        self._rows: list[Row] = []

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(self, *_: object) -> None:
        """Filters close their exclusion writer; the part is written when the last document has come through."""

    def write(self, document: Document, rank: int = 0) -> None:
        """A document that a filter dropped; BaseFilter put its reason into the metadata."""
        document.metadata["drop_reason"] = document.metadata.pop("filter_reason")
        self._rows.append(self.to_row(document))

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Write what remains after all filters, with what they dropped."""
        for document in data:
            document.metadata.setdefault("drop_reason", None)
            self._rows.append(self.to_row(document))
            yield document
        write_part(self.parts, rank, self._rows, self.part_schema)
        self._rows = []
