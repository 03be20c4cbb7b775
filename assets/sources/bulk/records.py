"""The one way in for everything that is read in bulk: a stream of records becomes WARC files and captures.parquet.

Memory holds one record and one run of rows; runs are spilled and sorted by DuckDB, which needs no more memory than it
is given, because captures.parquet is sorted by URL and a source may have a hundred million.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from assets.build import BuildError, Progress
from assets.schemas import CAPTURES, document_id
from assets.sources.bulk_config import BulkSource
from assets.sources.known_payloads import KnownPayloads
from assets.sources.variables import Variables, names_again
from assets.sources.warc import WarcFolder

RUN_ROWS = 20_000  # rows in memory before a run is spilled; measured 4 KiB each, so 80 MiB
SORT_MEMORY = "512MB"  # more is spilled beside the runs
WRITE_ROWS = 4096
PROGRESS_EVERY_S = 0.5
MAX_URL_CHARACTERS = 2000
_RANK, _READ = "rank", "read"
_RUN = CAPTURES.append(pa.field(_RANK, pa.int64())).append(pa.field(_READ, pa.int64()))
_PLAIN = re.compile(r"[A-Za-z0-9_.\-/!:@~]*")  # what a URL of ours holds as it is


@dataclass(frozen=True)
class Record:
    """One thing that a source holds: a payload, or the reason why there is none."""

    url: str
    payload: bytes | None = None
    content_type: str | None = None
    requested_url: str | None = None  # where exactly this version is found; the url if not given
    fetched_at: datetime | None = None  # when the publisher or crawler had it; None: now
    status: int | None = None  # of HTTP; with it, `headers` are kept as a response record
    headers: tuple[tuple[str, str], ...] = ()
    licence: str | None = None  # None: the source's
    language: str | None = None
    title: str | None = None
    metadata: str | None = None
    opt_out: str | None = None
    drop_reason: str | None = None
    detail: str | None = None
    record_id: str | None = None  # of the WARC record it was, for who reads files without a crawl


class RecordSink:
    """Takes records, decides on limits, stores payloads, writes the sorted table."""

    def __init__(
        self,
        source: BulkSource,
        crawl: str,
        output: Path,
        scratch: Path,
        progress: Progress,
        known: KnownPayloads,
        variables: Variables,
    ) -> None:
        self._variables = variables
        self._known = known
        self._source, self._crawl, self._output = source, crawl, output
        self._name = crawl.partition("@")[0]
        self._runs_folder = scratch / "runs"
        self._progress = progress
        self._rows: list[dict[str, Any]] = []
        self._runs: list[Path] = []
        self._told = 0.0
        self.taken = self.stored_bytes = self.sequence = 0
        self.limit: str | None = None
        self.not_taken: Counter[str] = Counter()
        """What was met but is no record of this source: other namespaces, record types, later copies of a URL."""
        info = {"software": "Headwater", "format": "WARC File Format 1.1", "isPartOf": crawl}
        self._warc = WarcFolder(output, info)

    def __enter__(self) -> RecordSink:
        self._warc.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._warc.__exit__(*error)

    def add(self, record: Record) -> bool:
        """Take one record; False when a limit of the source is reached and reading should end."""
        if self._variables.secret:
            record = self._hidden(record)
        at = record.fetched_at or datetime.now(UTC)
        url = storable(record.url)
        reason, detail = self._reason(record)
        row: dict[str, Any] = {  # what is not named here is null
            "url": url,
            "requested_url": storable(record.requested_url) if record.requested_url else url,
            "source": self._name,
            "crawl": self._crawl,
            "domain": self._source.domain,
            "licence": storable(record.licence) if record.licence else self._source.licence,
            "fetched_at": at,
            "status": record.status,
            "opt_out": record.opt_out,
            "drop_reason": reason,
            # Of two records of one URL the kept one counts, then the later by its publisher's time, then the first read.
            _RANK: -int(at.timestamp() * 1000) if record.fetched_at is not None else 0,
            _READ: self.sequence,
        }
        texts = {"content_type": record.content_type, "language": record.language, "title": record.title}
        texts |= {"metadata": record.metadata, "detail": detail}
        if record.headers:
            texts |= {"etag": _header(record, "etag"), "last_modified": _header(record, "last-modified")}
        row |= {name: storable(text) for name, text in texts.items() if text is not None}
        if reason is None:
            row |= self._store(url, record, at)
        self._rows.append(row)
        if len(self._rows) >= RUN_ROWS:
            self._spill()
        self._tell(url)
        return self.limit is None

    def _hidden(self, record: Record) -> Record:
        """The record as if the server knew the names of our variables only."""
        hide = self._variables.hide
        found = {key: value for key, value in vars(record).items() if isinstance(value, str)}
        return replace(
            record,
            **{key: hide(value) for key, value in found.items()},
            headers=tuple((name, hide(value)) for name, value in record.headers),
            payload=record.payload and self._variables.hide_bytes(record.payload),
        )

    def _reason(self, record: Record) -> tuple[str | None, str | None]:
        if record.drop_reason is not None:
            return record.drop_reason, record.detail
        size = len(record.payload or b"")
        if not size:
            return "empty_body", record.detail
        if size > self._source.max_bytes_per_record:
            return "too_large", f"{size} bytes > max_bytes_per_record {self._source.max_bytes_per_record}"
        if self.taken >= self._source.max_records:
            self.limit = "page_limit"
        elif self.stored_bytes + size > self._source.max_total_bytes:
            self.limit = "byte_limit"
        return self.limit, record.detail

    def _store(self, url: str, record: Record, at: datetime) -> dict[str, Any]:
        payload = record.payload or b""
        sha256 = hashlib.sha256(payload).hexdigest()
        self.taken += 1
        same = {
            "content_length": len(payload),
            "content_sha256": sha256,
            "doc_id": document_id(self._name, url, sha256),
        }
        if known := self._known.find(url, sha256):
            crawl, fetched_at = known
            return same | {"revisit": "identical_payload", "payload_crawl": crawl, "payload_fetched_at": fetched_at}
        if record.status is not None:
            place = self._warc.write_response(url, record.status, record.headers, payload, at)
        else:
            place = self._warc.write_resource(url, record.content_type or "application/octet-stream", payload, at)
        self.stored_bytes += len(payload)
        return same | {
            "payload_fetched_at": at,
            "warc_file": place.file,
            "warc_offset": place.offset,
            "warc_length": place.length,
        }

    def _tell(self, url: str) -> None:
        self.sequence += 1
        now = time.monotonic()
        if now - self._told >= PROGRESS_EVERY_S:
            self._told = now
            self._progress.update(self.sequence, None, url)

    def _spill(self) -> None:
        self._runs_folder.mkdir(parents=True, exist_ok=True)
        path = self._runs_folder / f"run-{len(self._runs):05d}.parquet"
        pq.write_table(pa.Table.from_pylist(self._rows, schema=_RUN), path, compression="zstd")
        self._runs.append(path)
        self._rows = []

    def finish(self) -> dict[str, Any]:
        """Write captures.parquet; the numbers of this execution for the report. Raises BuildError for an empty source."""
        if self.sequence == 0:
            raise BuildError(
                f"source {self._name!r}: nothing was read at all (not taken: {dict(self.not_taken) or 'nothing met'});"
                " an empty crawl is never published: check paths, columns, namespaces or filters in sources.toml"
            )
        self._spill()
        if later_copies := self.sequence - self._write_captures():
            self.not_taken["duplicate_url"] += later_copies
        return {
            "requests": self.sequence,
            "retries": 0,
            "limit": self.limit,
            "rsl_licences": 0,
            "not_taken": dict(sorted(self.not_taken.items())),
        }

    def _write_captures(self) -> int:
        """Sort the runs into captures.parquet, one row for each URL; how many."""
        import duckdb

        columns = ", ".join(f'"{name}"' for name in CAPTURES.names)
        settings = {"threads": 1, "memory_limit": SORT_MEMORY, "temp_directory": str(self._runs_folder)}
        written = 0
        with (
            duckdb.connect(config=settings) as connection,
            pq.ParquetWriter(self._output / "captures.parquet", CAPTURES, compression="zstd") as writer,
        ):
            first = f"row_number() OVER (PARTITION BY url ORDER BY drop_reason IS NOT NULL, {_RANK}, {_READ}) = 1"
            sql = f"SELECT {columns} FROM read_parquet($runs) QUALIFY {first} ORDER BY url"
            found = connection.sql(sql, params={"runs": [str(path) for path in self._runs]})
            for batch in found.to_arrow_reader(WRITE_ROWS):
                writer.write_table(pa.Table.from_batches([batch]).cast(CAPTURES))
                written += len(batch)
        return written


def _header(record: Record, name: str) -> str | None:
    return next((value for key, value in record.headers if key.lower() == name), None)


def storable(text: str) -> str:
    """Text that UTF-8 can hold: lone surrogates are written out."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def _name_bytes(name: str) -> bytes:
    """The bytes of a file name, which need not be UTF-8; what came from no such name has its surrogates written out."""
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return storable(name).encode()


def bulk_url(kind: str, source: str, *parts: str) -> str:
    """`dataset:SOURCE/part/part`, percent-encoded; a name too long for a URL is told by its hash."""
    from urllib.parse import quote

    path = "/".join(part if _PLAIN.fullmatch(part) else quote(_name_bytes(part), safe="/!~:@") for part in parts)
    path = names_again(path)
    if len(path) > MAX_URL_CHARACTERS:
        path = "sha256:" + hashlib.sha256(path.encode()).hexdigest()
    return f"{kind}:{source}/{path}"
