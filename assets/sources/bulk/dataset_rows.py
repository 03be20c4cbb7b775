"""One row of a data set -> one record, by the source's column mapping; pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from typing import Any

from assets.sources.bulk.records import Record, bulk_url
from assets.sources.bulk_config import DatasetColumns, DatasetSource

CONTENT_TYPES = {
    "text": "text/plain; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "markdown": "text/markdown; charset=utf-8",
    "wikitext": "text/x-wiki; charset=utf-8",
    "code": "text/x-code; charset=utf-8",
}
_ABSENT = object()


class RowError(Exception):
    """A row that is no document; `reason` is the drop reason."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def row_record(row: Any, place: str, name: str, source: DatasetSource) -> Record:
    """The record of one row. `place` (file and line) names rows whose own identity cannot be read."""
    columns = source.columns
    url = None
    try:
        if not isinstance(row, Mapping):
            raise RowError("wrong_type", f"a row must be an object, found {_kind(row)}")
        url = _identity(row, columns, name)
        payload = text_payload(_text(row, columns.text))
    except RowError as error:
        where = url or bulk_url("dataset", name, place)
        return Record(where, drop_reason=error.reason, detail=f"{place}: {error}")
    if url is None:
        url = bulk_url("dataset", name, "sha256:" + hashlib.sha256(payload).hexdigest())
    at, detail = read_time(_cell(row, columns.time)) if columns.time else (None, None)
    return Record(
        url,
        payload,
        CONTENT_TYPES[source.content],
        fetched_at=at,
        licence=_string(_cell(row, columns.licence)),
        language=_string(_cell(row, columns.language)),
        title=_string(_cell(row, columns.title)),
        metadata=_metadata(row, columns.metadata),
        detail=detail,
    )


def text_payload(text: str) -> bytes:
    """UTF-8 of a text. Raises RowError: nul_characters, lone_surrogates."""
    if "\0" in text:
        raise RowError("nul_characters", f"NUL at character {text.index(chr(0))}: this is not text")
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise RowError(
            "lone_surrogates", f"character {error.start} is half of a surrogate pair: UTF-8 cannot hold it"
        ) from None


def _identity(row: Mapping[str, Any], columns: DatasetColumns, name: str) -> str | None:
    """The row's URL by its url or id column; None when neither is mapped."""
    from assets.sources.web.scope import canonical_url

    for column in (columns.url, columns.id):
        if not column:
            continue
        value = _cell(row, column)
        if value is _ABSENT:
            raise RowError("missing_column", f"no column {column!r}; the row has {sorted(map(str, row))[:20]}")
        if value is None or value == "":
            if column == columns.url and columns.id:
                continue
            raise RowError("missing_identity", f"column {column!r} is empty")
        if isinstance(value, Decimal) and value.as_tuple().exponent == 0:
            value = int(value)  # how tables hold integers above 64 bits
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise RowError("wrong_type", f"column {column!r} must be text or an integer, found {_kind(value)}")
        if column == columns.url and str(value).lower().startswith(("http://", "https://")):
            try:
                return canonical_url(str(value))
            except ValueError:
                pass  # no URL after all: it still names the row
        return bulk_url("dataset", name, str(value))
    return None


def _text(row: Mapping[str, Any], column: str) -> str:
    value = _cell(row, column)
    if value is _ABSENT:
        raise RowError("missing_column", f"no column {column!r}; the row has {sorted(map(str, row))[:20]}")
    if value is None:
        return ""
    if not isinstance(value, str):
        raise RowError("wrong_type", f"column {column!r} must be text, found {_kind(value)}")
    return value


def _cell(row: Mapping[str, Any], column: str) -> Any:
    """A column by its name, or what a JMESPath expression finds; _ABSENT when there is neither."""
    if not column:
        return None
    if column in row:
        return row[column]
    if any(character in column for character in ".[|@("):
        found = _expression(column).search(row)
        return _ABSENT if found is None else found
    return _ABSENT


@cache
def _expression(text: str) -> Any:
    import jmespath

    return jmespath.compile(text)


def _string(value: Any) -> str | None:
    if value is None or value is _ABSENT or value == "":
        return None
    return value if isinstance(value, str) else ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _metadata(row: Mapping[str, Any], columns: tuple[str, ...]) -> str | None:
    import json

    found = {column: value for column in columns if (value := _cell(row, column)) is not _ABSENT}
    return json.dumps(found, ensure_ascii=False, sort_keys=True, default=str) if found else None


def read_time(value: Any) -> tuple[datetime | None, str | None]:
    """(UTC time, None), or (None, what is wrong): a strange date costs the date, not the document."""
    if value is None or value is _ABSENT or value == "":
        return None, None
    try:
        if isinstance(value, datetime):
            at = value
        elif isinstance(value, int | float) and not isinstance(value, bool):
            at = datetime.fromtimestamp(value, UTC)
        else:
            at = datetime.fromisoformat(str(value))
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC), None
    except (ValueError, OverflowError, OSError):
        return None, f"time {str(value)[:40]!r} is neither ISO 8601 nor seconds since 1970: taken as now"


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__
