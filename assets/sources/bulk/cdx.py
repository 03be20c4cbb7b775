"""Indexes of Common Crawl: which record of which WARC file holds a URL. Three forms, one answer.

CDX server   JSON lines over HTTP, page by page        (index.commoncrawl.org, pywb)
CDXJ files   `surt timestamp {json}` lines, sorted     (cc-index/collections/.../cdx-00000.gz)
columnar     Parquet, one row per capture              (cc-index/table/cc-main/warc)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

from assets.machine_faults import raise_machine_fault
from assets.sources.bulk.dataset import parse_json
from assets.sources.bulk_config import CommonCrawlSource
from assets.sources.streams.decompression import InputError
from assets.sources.streams.inputs import Inputs
from assets.sources.streams.lines import read_lines

MAX_LINE_BYTES = 1 << 20
MAX_API_PAGE_BYTES = 1 << 28
PARQUET_ROWS = 4096
COLUMNS = {
    "url": "url",
    "filename": "warc_filename",
    "offset": "warc_record_offset",
    "length": "warc_record_length",
}
"""CDXJ field -> column of the columnar index."""


@dataclass(frozen=True)
class Pointer:
    """Where one capture lies: a file below base_url, and its bytes."""

    url: str
    filename: str
    offset: int
    length: int


@dataclass(frozen=True)
class Unusable:
    """An index line that points nowhere."""

    place: str
    reason: str
    detail: str


def pointers(source: CommonCrawlSource, inputs: Inputs) -> Iterator[Pointer | Unusable]:
    """What the source's index says. Raises InputError when an index cannot be read on."""
    if source.index_api:
        for query in source.urls:
            yield from _api(source, inputs, query)
    elif source.cdxj:
        patterns, filters = url_patterns(_urls(source, inputs)), [parse_filter(text) for text in source.filters]
        for item in inputs.list(source.cdxj):
            with inputs.unpacked(item) as stream:
                for line in read_lines(stream, MAX_LINE_BYTES):
                    found = _cdxj_line(line.content, f"{item.name}#line-{line.number}")
                    if isinstance(found, Unusable):
                        yield found
                    elif found and any(p(found["url"]) for p in patterns) and all(f(found) for f in filters):
                        yield _pointer(found, f"{item.name}#line-{line.number}")
    else:
        yield from _columnar(source, inputs)


def _api(source: CommonCrawlSource, inputs: Inputs, query: str) -> Iterator[Pointer | Unusable]:
    """All pages that a CDX server has for one query."""
    base = [("url", inputs.variables.reveal(query)), ("output", "json"), *(("filter", text) for text in source.filters)]
    counted = inputs.http.body(f"{source.index_api}?{urlencode([*base, ('showNumPages', 'true')])}", 1 << 20)
    try:
        answer = parse_json(counted)
        pages = int(answer["pages"] if isinstance(answer, dict) else answer)
    except (ValueError, KeyError, TypeError):
        raise InputError(
            "input_damaged", f"{source.index_api}: showNumPages answered {counted[:100]!r}, not a number of pages"
        ) from None
    for page in range(pages):
        url = f"{source.index_api}?{urlencode([*base, ('page', str(page))])}"
        for number, line in enumerate(inputs.http.body(url, MAX_API_PAGE_BYTES).splitlines(), 1):
            if line.strip():
                place = f"{query}#page-{page}-line-{number}"
                row = _json_object(line, place)
                yield row if isinstance(row, Unusable) else _pointer(row, place)


def _urls(source: CommonCrawlSource, inputs: Inputs) -> list[str]:
    return [inputs.variables.reveal(query) for query in source.urls]


def _cdxj_line(line: bytes | None, place: str) -> dict[str, Any] | Unusable | None:
    if line is None:
        return Unusable(place, "too_large", f"an index line above {MAX_LINE_BYTES} bytes")
    if not line.strip() or line.startswith(b"!"):  # metadata of pywb's indexes
        return None
    parts = line.split(b" ", 2)
    if len(parts) != 3:
        return Unusable(place, "invalid_index_line", f"{line[:100]!r} is not `key timestamp json`")
    return _json_object(parts[2], place)


def _json_object(text: bytes, place: str) -> dict[str, Any] | Unusable:
    try:
        row = parse_json(text)
    except ValueError as error:
        return Unusable(place, "invalid_index_line", str(error)[:200])
    if not isinstance(row, dict) or not isinstance(row.get("url"), str):
        return Unusable(place, "invalid_index_line", f"no url in {text[:100]!r}")
    return row


def _pointer(row: Mapping[str, Any], place: str) -> Pointer | Unusable:
    try:
        found = Pointer(str(row["url"]), str(row["filename"]), int(row["offset"]), int(row["length"]))
    except (KeyError, TypeError, ValueError) as error:
        return Unusable(place, "invalid_index_line", f"{type(error).__name__}: {error}")
    if found.offset < 0 or found.length <= 0 or ".." in found.filename.split("/") or "://" in found.filename:
        return Unusable(place, "invalid_index_line", f"{found.filename!r}, {found.offset}, {found.length} is no place")
    return found


def _columnar(source: CommonCrawlSource, inputs: Inputs) -> Iterator[Pointer | Unusable]:
    """Rows of the columnar index, `where` pushed down to row groups."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    patterns = url_patterns(_urls(source, inputs)) or [lambda url: True]
    columns = sorted({*COLUMNS.values(), *source.where})
    for item in inputs.list(source.columnar):
        with inputs.seekable(item) as stream:
            try:
                file = pq.ParquetFile(stream)
                missing = sorted(set(columns) - set(file.schema_arrow.names))
                if missing:
                    raise InputError("input_lacks_column", f"{item.name}: no column {missing[0]!r}")
                groups = [n for n in range(file.num_row_groups) if _may_hold(file.metadata.row_group(n), source.where)]
                for batch in file.iter_batches(PARQUET_ROWS, row_groups=groups, columns=columns):
                    for column, value in sorted(source.where.items()):
                        batch = batch.filter(pc.equal(batch[column], pa.scalar(value)))
                    for row in batch.to_pylist():
                        if any(pattern(row["url"] or "") for pattern in patterns):
                            yield _pointer({key: row[column] for key, column in COLUMNS.items()}, item.name)
            except (pa.ArrowException, OSError) as error:
                raise_machine_fault(error)
                raise InputError("input_damaged", f"{item.name}: {error}"[:300]) from None


def _may_hold(group: Any, where: Mapping[str, Any]) -> bool:
    """Whether a row group's statistics leave room for the wanted values: the index is sorted by host, so most do not."""
    for number in range(group.num_columns):
        column = group.column(number)
        wanted = where.get(column.path_in_schema)
        statistics = column.statistics
        if wanted is not None and statistics is not None and statistics.has_min_max:
            try:
                if not statistics.min <= wanted <= statistics.max:
                    return False
            except TypeError:
                continue  # the where says a number, the column holds text: the filter reports it
    return True


def url_patterns(queries: Sequence[str]) -> list[Any]:
    """Predicates on URLs for `host/path`, `host/path/*` and `*.host`, as CDX servers read them; the scheme is free."""
    return [_pattern(query) for query in queries]


def _pattern(query: str) -> Any:
    query = re.sub(r"^https?://", "", query)
    if query.startswith("*."):
        domain = query[2:].lower().rstrip("/")

        def in_domain(url: str) -> bool:
            host = (urlsplit(url).hostname or "").lower()
            return host == domain or host.endswith(f".{domain}")

        return in_domain
    if query.endswith("*"):
        prefix = query[:-1]
        return lambda url: _without_scheme(url).startswith(prefix)
    wanted = query.rstrip("/")
    return lambda url: _without_scheme(url).rstrip("/") == wanted


def _without_scheme(url: str) -> str:
    parts = urlsplit(url)
    return parts.netloc.lower() + url[url.find(parts.netloc) + len(parts.netloc) :] if parts.netloc else url


_FILTER = re.compile(r"(!?)([=~]?)(\w+):(.*)")


def parse_filter(text: str) -> Any:
    """A predicate on CDXJ fields: `=status:200` equal, `~url:regex` matches, `mime:html` contains, `!` not."""
    found = _FILTER.fullmatch(text)
    if not found:
        raise InputError("input_unreadable", f"filter {text!r} is not [!][=|~]field:expression")
    negated, how, field, wanted = bool(found[1]), found[2], found[3], found[4]

    def holds(row: Mapping[str, Any]) -> bool:
        value = str(row.get(field, ""))
        if how == "=":
            met = value == wanted
        elif how == "~":
            met = re.fullmatch(wanted, value) is not None
        else:
            met = wanted in value
        return met != negated

    return holds
