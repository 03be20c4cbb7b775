"""Documents of a company as captures: folders, buckets and archives with pages, papers, mail and JSON exports.

A file is one document, except what holds many: archives (one level), mailboxes, mail with attachments, exports.
"""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from io import BytesIO
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from assets.documents.formats.media_types import DOCX_TYPE
from assets.sources.bulk.dataset_rows import CONTENT_TYPES, RowError, read_time, text_payload
from assets.sources.bulk.mailboxes import mail_records, split_mailbox
from assets.sources.bulk.records import Record, RecordSink, bulk_url
from assets.sources.bulk_config import DocumentsSource, JsonExport
from assets.sources.streams.archives import ArchiveMember, tar_members, zip_members
from assets.sources.streams.decompression import InputError, plain_name, unpacked
from assets.sources.streams.inputs import Input, Inputs

TYPES = {
    ".md": "text/markdown",
    ".markdown": "text/markdown",
    ".html": "text/html",
    ".htm": "text/html",
    ".xhtml": "application/xhtml+xml",
    ".txt": "text/plain",
    ".text": "text/plain",
    ".rst": "text/plain",
    ".pdf": "application/pdf",
    ".docx": DOCX_TYPE,
}
"""Suffix -> content type of files that are one document. Others are recorded as unsupported_content_type."""

ZIPS, TARS = {".zip"}, {".tar", ".tgz", ".tbz2", ".txz"}
MAX_JSON_BYTES = 64 << 20  # an export is parsed as a whole: about five times that in memory
_PDF_MAGIC = b"%PDF-"


def read_documents(source: DocumentsSource, name: str, inputs: Inputs, sink: RecordSink) -> None:
    """Feed every document below the paths to the sink. Raises BuildError when a path names nothing."""
    reader = _Reader(source, name)
    for item in inputs.list(source.paths):
        try:
            for record in reader.file(inputs, item):
                if isinstance(record, str):
                    sink.not_taken[record] += 1
                elif not sink.add(record):
                    return
        except InputError as error:
            where = bulk_url("documents", name, item.name)
            if not sink.add(Record(where, drop_reason=error.reason, detail=f"{item.name}: {error}")):
                return


class _Reader:
    """Splits files into documents; knows only the source's rules."""

    def __init__(self, source: DocumentsSource, name: str) -> None:
        self._source, self._name = source, name

    def file(self, inputs: Inputs, item: Input) -> Iterator[Record | str]:
        """Records of one input; a string names what is left out by include and exclude."""
        suffix = PurePosixPath(plain_name(item.name)).suffix.lower()
        if suffix in ZIPS:
            with inputs.seekable(item) as stream:
                ratio = self._source.max_archive_ratio
                yield from self._archive(zip_members(stream, self._source.max_bytes_per_record, ratio), item.name)
        elif suffix in TARS:
            with inputs.unpacked(item) as stream:
                yield from self._archive(tar_members(stream, self._source.max_bytes_per_record), item.name)
        elif not self._wanted(item.name):
            yield "excluded"
        elif suffix == ".mbox":
            with inputs.unpacked(item) as stream:
                yield from self._mailbox(stream, item.name)
        else:
            limit = MAX_JSON_BYTES if suffix == ".json" else self._source.max_bytes_per_record
            with inputs.unpacked(item) as stream:
                content = stream.read(limit + 1)
            if len(content) > limit:
                yield self._dropped(item.name, "too_large", f"more than {limit} bytes")
            else:
                yield from self._document(plain_name(item.name), content)

    def _archive(self, members: Iterator[ArchiveMember], archive: str) -> Iterator[Record | str]:
        for member in members:
            place = f"{archive}!/{member.name.lstrip('/')}"
            suffix = PurePosixPath(member.name).suffix.lower()
            if member.reason is not None:
                yield self._dropped(place, member.reason, member.detail)
            elif not self._wanted(member.name):
                yield "excluded"
            elif suffix in ZIPS | TARS:
                yield self._dropped(place, "nested_archive", "an archive inside an archive is not opened")
            elif suffix == ".mbox":
                yield from self._mailbox(BytesIO(member.content or b""), place)
            else:
                yield from self._document(place, member.content or b"")

    def _document(self, place: str, content: bytes) -> Iterator[Record]:
        """Records of one file that was read whole."""
        suffix = PurePosixPath(place).suffix.lower()
        if suffix == ".eml":
            yield from mail_records(content, place, self._name, attachment_type, self._source.attachments)
        elif suffix == ".json":
            yield from self._export(content, place)
        elif content_type := TYPES.get(suffix) or ("application/pdf" if content.startswith(_PDF_MAGIC) else None):
            yield Record(bulk_url("documents", self._name, place), content, content_type)
        else:
            yield self._dropped(place, "unsupported_content_type", f"suffix {suffix!r}")

    def _mailbox(self, stream: BinaryIO, place: str) -> Iterator[Record]:
        for number, content in split_mailbox(stream, self._source.max_bytes_per_record):
            where = f"{place}#message-{number}"
            if content is None:
                yield self._dropped(where, "too_large", f"more than {self._source.max_bytes_per_record} bytes")
            else:
                yield from mail_records(content, where, self._name, attachment_type, self._source.attachments)

    def _export(self, content: bytes, place: str) -> Iterator[Record]:
        from assets.sources.bulk.dataset import parse_json

        rules = self._source.json_export
        if rules is None:
            yield self._dropped(place, "unsupported_content_type", "JSON, and the source has no [json_export]")
            return
        try:
            found = _path(rules.items).search(parse_json(unpacked(BytesIO(content)).read()))
        except ValueError as error:
            yield self._dropped(place, "invalid_json", str(error))
            return
        items = found if isinstance(found, list) else [found]
        if found is None or not items:
            yield self._dropped(place, "missing_column", f"json_export.items {rules.items!r} finds nothing")
            return
        for number, item in enumerate(items):
            yield self._export_item(item, rules, place, number)

    def _export_item(self, item: Any, rules: JsonExport, place: str, number: int) -> Record:
        found = {
            key: _path(getattr(rules, key)).search(item)
            for key in ("text", "id", "title", "time")
            if getattr(rules, key)
        }
        identity = found.get("id")
        named = isinstance(identity, str | int) and identity != ""
        where = f"{place}/{identity}" if named else f"{place}#item-{number}"
        if found["text"] is None:
            return self._dropped(where, "missing_column", f"json_export.text {rules.text!r} finds nothing")
        if not isinstance(found["text"], str):
            kind = type(found["text"]).__name__
            return self._dropped(where, "wrong_type", f"json_export.text must find text, found {kind}")
        try:
            payload = text_payload(found["text"])
        except RowError as error:
            return self._dropped(where, error.reason, str(error))
        at, detail = read_time(_number(found.get("time")))
        title = found.get("title")
        return Record(
            bulk_url("documents", self._name, where),
            payload,
            CONTENT_TYPES["html" if rules.html else "text"],
            fetched_at=at,
            title=title if isinstance(title, str) else None,
            detail=detail,
        )

    def _wanted(self, name: str) -> bool:
        """By include and exclude; `*` also crosses folders."""
        return any(fnmatchcase(name, glob) for glob in self._source.include) and not any(
            fnmatchcase(name, glob) for glob in self._source.exclude
        )

    def _dropped(self, place: str, reason: str, detail: str) -> Record:
        return Record(bulk_url("documents", self._name, place), drop_reason=reason, detail=f"{place}: {detail}"[:500])


def attachment_type(filename: str, declared: str) -> str | None:
    """Content type of an attachment that extraction can read; its name counts more than what the mailer declared."""
    return TYPES.get(PurePosixPath(filename).suffix.lower()) or (declared if declared in TYPES.values() else None)


def _path(expression: str) -> Any:
    import jmespath

    return jmespath.compile(expression)


def _number(value: Any) -> Any:
    """Slack writes times as text: "1700000000.000200"."""
    if isinstance(value, str) and value.replace(".", "", 1).isdigit():
        return float(value)
    return value
