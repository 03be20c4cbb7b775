"""Common Crawl as captures: whole files by path list, or single records by index and byte range."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from assets.build import BuildError
from assets.sources.bulk.cdx import Pointer, Unusable, pointers
from assets.sources.bulk.records import Record, RecordSink, bulk_url
from assets.sources.bulk.warc_import import member_record, read_warc_file, record_url
from assets.sources.bulk_config import CommonCrawlSource
from assets.sources.streams.decompression import InputError
from assets.sources.streams.inputs import Input, Inputs
from assets.sources.streams.lines import read_lines
from assets.sources.streams.warc_members import HEADER_BYTES, gzip_members

RESPONSES = frozenset({"response"})
WHOLE_FILES = frozenset({"response", "conversion"})  # WARC has responses, WET conversions
MAX_PATH_BYTES = 4096


def read_common_crawl(source: CommonCrawlSource, name: str, inputs: Inputs, sink: RecordSink) -> None:
    """Feed files or single records to the sink. Raises BuildError when the list or the index cannot be read at all."""
    if source.path_lists:
        for place in islice(_listed_files(source, name, inputs), source.max_files):
            if not read_warc_file(source, name, inputs, Input(place[0], place[1]), sink, WHOLE_FILES):
                return
        return
    try:
        for pointer in pointers(source, inputs):
            if not sink.add(_record(pointer, source, name, inputs, sink)):
                return
    except InputError as error:
        if not sink.sequence:
            raise BuildError(f"source {name!r}: the index gave nothing: {error}") from None
        sink.add(Record(bulk_url("common_crawl", name, "index"), drop_reason=error.reason, detail=str(error)))


def _listed_files(source: CommonCrawlSource, name: str, inputs: Inputs) -> Iterator[tuple[str, str]]:
    """(name, place) of every file that the path lists name, in their order."""
    for item in inputs.list(source.path_lists):
        try:
            with inputs.unpacked(item) as stream:
                for line in read_lines(stream, MAX_PATH_BYTES):
                    path = (line.content or b"").decode("utf-8", "replace").strip()
                    if not path:
                        continue
                    if ".." in path.split("/") or path.startswith("/") or "://" in path:
                        raise BuildError(
                            f"source {name!r}: {item.name} line {line.number}: {path[:100]!r} is no path below base_url"
                        )
                    yield path, _below(source.base_url, path)
        except InputError as error:
            raise BuildError(f"source {name!r}: path list {item.name}: {error}") from None


def _below(base: str, path: str) -> str:
    return f"{base.rstrip('/')}/{path}"


def _record(
    pointer: Pointer | Unusable, source: CommonCrawlSource, name: str, inputs: Inputs, sink: RecordSink
) -> Record:
    """The record that an index entry points to, or why it is not there."""
    if isinstance(pointer, Unusable):
        where = bulk_url("common_crawl", name, pointer.place)
        return Record(where, drop_reason=pointer.reason, detail=f"{pointer.place}: {pointer.detail}")
    place = f"{pointer.filename}#{pointer.offset}"
    if pointer.length > source.max_bytes_per_record + HEADER_BYTES:
        return Record(pointer.url, drop_reason="too_large", detail=f"{place}: {pointer.length} bytes packed")
    try:
        packed = inputs.range(_below(source.base_url, pointer.filename), pointer.offset, pointer.length)
    except InputError as error:
        return Record(pointer.url, drop_reason="fetch_failed", detail=f"{place}: {error}")
    return _one_member(packed, pointer, place, source, name)


def _one_member(packed: bytes, pointer: Pointer, place: str, source: CommonCrawlSource, name: str) -> Record:
    from io import BytesIO

    member = next(gzip_members(BytesIO(packed), source.max_bytes_per_record + HEADER_BYTES), None)
    if member is None:
        return Record(pointer.url, drop_reason="damaged_record", detail=f"{place}: only zeros there")
    record = member_record(member, place, name, source, RESPONSES)
    if isinstance(record, str):
        return Record(pointer.url, drop_reason="unsupported_record", detail=f"{place}: {record}")
    if member.problem:
        return Record(pointer.url, drop_reason=member.reason, detail=record.detail)
    if record.drop_reason != "damaged_record" and record.url != record_url(pointer.url):
        detail = f"{place} holds {record.requested_url}, the index says {pointer.url}: another crawl's index?"
        return Record(pointer.url, drop_reason="index_mismatch", detail=detail)
    return record
