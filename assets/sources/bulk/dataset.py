"""Data sets as captures: JSON Lines, JSON, Parquet, CSV, TSV, text, and Hugging Face folders.

Every reader yields one record per row; a row that cannot be read is a record with its reason, and a file that
cannot be read on is one more, so that the next file is still read and nothing is lost in silence.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from assets.json_text import exact_json
from assets.machine_faults import raise_machine_fault
from assets.sources.bulk.dataset_rows import CONTENT_TYPES, row_record
from assets.sources.bulk.records import Record, RecordSink, bulk_url
from assets.sources.bulk_config import DatasetSource
from assets.sources.streams.decompression import InputError, plain_name
from assets.sources.streams.inputs import Input, Inputs
from assets.sources.streams.lines import encoding_of, read_lines

PARQUET_ROWS = 64  # decoded at a time: bounds memory to so many documents
LAYOUTS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "text",
}
"""Suffix (before a compression's) -> layout."""


def read_dataset(source: DatasetSource, name: str, inputs: Inputs, sink: RecordSink) -> None:
    """Feed every row of every input to the sink. Raises BuildError when a path names nothing."""
    if source.layout == "huggingface":
        from assets.sources.bulk.huggingface import huggingface_rows

        for path in source.paths:
            place = PurePosixPath(path).name or "data"
            found = huggingface_rows(path, source, inputs.variables)
            rows = (row_record(row, f"{place}#row-{n}", name, source) for n, row in found)
            if not _drain(rows, place, name, sink):
                return
        return
    for item in inputs.list(source.paths):
        if not _drain(_records(source, name, inputs, item), item.name, name, sink):
            return


def _drain(records: Iterator[Record], place: str, name: str, sink: RecordSink) -> bool:
    """False when a limit is reached."""
    try:
        return all(sink.add(record) for record in records)
    except InputError as error:
        return sink.add(Record(bulk_url("dataset", name, place), drop_reason=error.reason, detail=f"{place}: {error}"))


def _records(source: DatasetSource, name: str, inputs: Inputs, item: Input) -> Iterator[Record]:
    layout = source.layout
    if layout == "auto":
        where = inputs.variables.reveal(item.place).partition("?")[0]
        suffix = PurePosixPath(plain_name(where)).suffix.lower()
        if suffix not in LAYOUTS:
            raise InputError(
                "input_unknown_layout", f"suffix {suffix!r} is none of {', '.join(LAYOUTS)}: set layout in sources.toml"
            )
        layout = LAYOUTS[suffix]
    if layout == "parquet":
        yield from _parquet(source, name, inputs, item)
        return
    with inputs.unpacked(item) as stream:
        yield from _READERS[layout](stream, source, name, item.name)


def _json_lines(stream: BinaryIO, source: DatasetSource, name: str, place: str) -> Iterator[Record]:
    encoding = encoding_of(stream, source.encoding)
    for line in read_lines(stream, source.max_bytes_per_record):
        where = f"{place}#line-{line.number}"
        if line.content is None:
            yield _too_long(where, name, line.length)
        elif line.content.strip():
            try:
                row = parse_json(line.content, encoding)
            except ValueError as error:
                yield Record(
                    bulk_url("dataset", name, where), drop_reason="invalid_json", detail=f"{where}: {error}"[:300]
                )
            else:
                yield row_record(row, where, name, source)


def parse_json(content: bytes, encoding: str = "utf-8") -> Any:
    """One JSON text, its integers exact; lone surrogates pass here and are refused where they stand. Raises ValueError."""
    import json

    import orjson

    try:
        return exact_json(content)
    except orjson.JSONDecodeError:
        try:
            return json.loads(content.decode(encoding))
        except RecursionError:
            raise ValueError("nested too deep") from None


def _json(stream: BinaryIO, source: DatasetSource, name: str, place: str) -> Iterator[Record]:
    """Rows of one large JSON text, one in memory at a time."""
    import ijson

    try:
        rows = ijson.items(stream, source.json_items)  # not use_float, which ends a file at an integer above 64 bits
        for number, row in enumerate(rows, 1):
            yield row_record(_with_floats(row), f"{place}#row-{number}", name, source)
    except ijson.IncompleteJSONError as error:  # yajl's word for every error; only this message means the end
        if "premature EOF" in str(error) or "ncomplete JSON" in str(error):
            raise InputError("input_truncated", f"the JSON text breaks off: {_short(error)}") from None
        raise InputError("input_damaged", f"not JSON: {_short(error)}") from None
    except (ijson.JSONError, ValueError, RecursionError) as error:
        raise InputError("input_damaged", f"not JSON: {_short(error)}") from None


def _with_floats(value: Any) -> Any:
    """The same JSON value with floats where ijson has decimals."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, dict):
        return {key: _with_floats(item) for key, item in value.items()}
    return [_with_floats(item) for item in value] if isinstance(value, list) else value


def _separated(delimiter: str) -> Callable[[BinaryIO, DatasetSource, str, str], Iterator[Record]]:
    def read(stream: BinaryIO, source: DatasetSource, name: str, place: str) -> Iterator[Record]:
        csv.field_size_limit(max(csv.field_size_limit(), source.max_bytes_per_record))
        lines = _DecodedLines(stream, source)
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        header: list[str] | None = None
        while True:
            where = f"{place}#line-{lines.number + 1}"
            try:
                cells = next(reader)
            except StopIteration:
                return
            except (csv.Error, _BadLineError) as error:
                reason = error.reason if isinstance(error, _BadLineError) else "invalid_csv"
                yield Record(bulk_url("dataset", name, where), drop_reason=reason, detail=f"{where}: {error}")
                reader = csv.reader(lines, delimiter=delimiter, strict=True)
                continue
            if header is None:
                header = cells
            elif len(cells) == len(header):
                yield row_record(dict(zip(header, cells, strict=True)), where, name, source)
            elif cells:
                detail = f"{where}: {len(cells)} cells, the header has {len(header)}"
                yield Record(bulk_url("dataset", name, where), drop_reason="invalid_csv", detail=detail)

    return read


class _BadLineError(Exception):
    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class _DecodedLines:
    """Lines as text for csv.reader; goes on after a line that raised."""

    def __init__(self, stream: BinaryIO, source: DatasetSource) -> None:
        self._encoding = encoding_of(stream, source.encoding)
        self._lines = read_lines(stream, source.max_bytes_per_record)
        self.number = 0

    def __iter__(self) -> _DecodedLines:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.number = line.number
        if line.content is None:
            raise _BadLineError("too_large", f"a line of {line.length} bytes")
        try:
            return line.content.decode(self._encoding) + "\n"
        except UnicodeDecodeError as error:
            raise _BadLineError("undecodable", f"not {self._encoding}: {error.reason} at byte {error.start}") from None


def _parquet(source: DatasetSource, name: str, inputs: Inputs, item: Input) -> Iterator[Record]:
    """Row group by row group, so that a damaged one costs only its own rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with inputs.seekable(item) as stream:
        try:
            file = pq.ParquetFile(stream)
        except (pa.ArrowException, OSError) as error:
            raise_machine_fault(error)
            raise InputError("input_damaged", f"not a whole Parquet file: {_short(error)}") from None
        columns = _needed(source)
        missing = sorted(columns - set(file.schema_arrow.names))
        if missing:
            raise InputError(
                "input_lacks_column", f"no column {missing[0]!r}; it has {file.schema_arrow.names[:20]}: see [columns]"
            )
        for group in range(file.num_row_groups):
            number = 0
            try:
                for batch in file.iter_batches(PARQUET_ROWS, row_groups=[group], columns=sorted(columns)):
                    for row in batch.to_pylist():
                        number += 1
                        yield row_record(row, f"{item.name}#group-{group}-row-{number}", name, source)
            except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
                raise_machine_fault(error)
                where = f"{item.name}#group-{group}"
                detail = f"{where}: unreadable after {number} rows: {_short(error)}"
                yield Record(bulk_url("dataset", name, where), drop_reason="input_damaged", detail=detail)


def _needed(source: DatasetSource) -> set[str]:
    """Top-level columns that the mapping reads."""
    import re

    columns = source.columns
    named = [getattr(columns, key) for key in ("text", "id", "url", "title", "licence", "language", "time")]
    return {re.split(r"[.\[|@(]", column)[0] for column in [*named, *columns.metadata] if column}


def _whole_text(stream: BinaryIO, source: DatasetSource, name: str, place: str) -> Iterator[Record]:
    """A document per file, bytes as they are: extraction finds the encoding."""
    payload = stream.read(source.max_bytes_per_record + 1)
    content_type = f"text/plain; charset={source.encoding}" if source.encoding else "text/plain"
    if source.content != "text":
        content_type = CONTENT_TYPES[source.content].partition(";")[0]
    yield Record(bulk_url("dataset", name, plain_name(place)), payload, content_type)


def _text_lines(stream: BinaryIO, source: DatasetSource, name: str, place: str) -> Iterator[Record]:
    """A document per line, named by its content: line numbers move when a line is put in."""
    encoding = encoding_of(stream, source.encoding)
    for line in read_lines(stream, source.max_bytes_per_record):
        where = f"{place}#line-{line.number}"
        if line.content is None:
            yield _too_long(where, name, line.length)
            continue
        try:
            text = line.content.decode(encoding)
        except UnicodeDecodeError as error:
            detail = f"{where}: not {encoding}: {error.reason} at byte {error.start}"
            yield Record(bulk_url("dataset", name, where), drop_reason="undecodable", detail=detail)
            continue
        if text.strip():
            yield row_record({source.columns.text: text}, where, name, source)


def _too_long(where: str, name: str, length: int) -> Record:
    return Record(
        bulk_url("dataset", name, where), drop_reason="too_large", detail=f"{where}: a line of {length} bytes"
    )


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


_READERS: dict[str, Callable[[BinaryIO, DatasetSource, str, str], Iterator[Record]]] = {
    "jsonl": _json_lines,
    "json": _json,
    "csv": _separated(","),
    "tsv": _separated("\t"),
    "text": _whole_text,
    "lines": _text_lines,
}
