"""Files that a source names: found by path, glob or prefix, opened as streams wherever they lie.

Local paths, http(s):// and s3:// look the same from here. Names carry no machine path, so that the
same files give the same data on another machine.
"""

from __future__ import annotations

import glob
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from assets.build import BuildError
from assets.machine_faults import raise_machine_fault
from assets.sources.bulk_config import BulkSource
from assets.sources.streams.decompression import InputError, unpacked
from assets.sources.streams.http_stream import Http, HttpStream
from assets.sources.variables import Variables

S3_BLOCK_BYTES = 8 << 20
_MAGIC = set("*?[")


@dataclass(frozen=True, order=True)
class Input:
    """One file: the name it has in the data, and where it is. Variables have no value in either."""

    name: str
    place: str


class Inputs:
    """Lists and opens the inputs of one source."""

    def __init__(self, source: BulkSource, name: str, scratch: Path, variables: Variables) -> None:
        self._source, self._name, self._scratch, self.variables = source, name, scratch, variables

    def list(self, patterns: Sequence[str]) -> list[Input]:
        """Inputs of all patterns, in order of their names. Raises BuildError for a pattern that names nothing."""
        found: dict[str, Input] = {}
        for pattern in patterns:
            inputs = self._expand(pattern)
            if not inputs:
                raise BuildError(
                    f"source {self._name!r}: {pattern!r} names no file. Check the path in sources.toml: a source that "
                    "gives nothing is never published as an empty one"
                )
            for item in inputs:
                other = found.setdefault(item.name, item)
                if other != item:
                    raise BuildError(
                        f"source {self._name!r}: {other.place!r} and {item.place!r} would both be named {item.name!r};"
                        " make two sources of them, or name a folder above both"
                    )
        return sorted(found.values())

    def _expand(self, pattern: str) -> list[Input]:
        if self._is_http(pattern):
            return [Input(pattern, pattern)]
        place = self.variables.reveal(pattern)
        if place.startswith("s3://"):
            return self._expand_s3(place)
        root = Path(place).expanduser()
        if root.is_dir():
            return [
                Input(path.relative_to(root).as_posix(), str(path))
                for path in root.rglob("*")
                if path.is_file() and path.resolve().is_relative_to(root.resolve())
            ]
        if root.is_file():
            return [Input(root.name, str(root))]
        base = Path(*_before_magic(root.parts))
        return [
            Input(path.relative_to(base).as_posix(), str(path))
            for path in map(Path, glob.glob(str(root), recursive=True))
            if path.is_file()
        ]

    def _expand_s3(self, pattern: str) -> list[Input]:
        key = pattern.removeprefix("s3://")
        try:
            if _MAGIC & set(key):
                keys = self.s3.glob(key)
            elif self.s3.isfile(key):
                keys = [key]
            else:
                keys = self.s3.find(key)
        except Exception as error:  # botocore's many: no credentials, no such bucket, no connection
            raise_machine_fault(error)
            raise BuildError(f"source {self._name!r}: {pattern} cannot be listed: {error}") from None
        places = [self.variables.hide(f"s3://{found}") for found in keys]
        return [Input(place, place) for place in places]

    def _is_http(self, place: str) -> bool:
        return self.variables.reveal(place).startswith(("http://", "https://"))

    @cached_property
    def s3(self) -> Any:
        """s3fs for this source. Keys come from the environment, as botocore reads them."""
        return open_s3(self.variables.reveal(self._source.s3_endpoint), self._source.s3_anonymous, self._source.retries)

    @cached_property
    def http(self) -> Http:
        """HTTP for this source."""
        return Http(self._source, self.variables)

    def open(self, item: Input) -> BinaryIO:
        """The bytes of an input as a stream, as they lie there. Raises InputError."""
        import io

        try:
            if self._is_http(item.place):
                return io.BufferedReader(HttpStream(self.http, item.place), 1 << 20)
            place = self.variables.reveal(item.place)
            if place.startswith("s3://"):
                return self.s3.open(place, "rb", block_size=S3_BLOCK_BYTES, cache_type="readahead")
            return open(place, "rb")
        except (OSError, ValueError) as error:
            raise_machine_fault(error)
            raise InputError("input_unreadable", f"{item.name}: {error}") from None

    def unpacked(self, item: Input) -> BinaryIO:
        """The bytes of an input without their compression."""
        return unpacked(self.open(item))

    def seekable(self, item: Input) -> BinaryIO:
        """An input that can be read in any order; one that comes over HTTP is first copied to the scratch folder."""
        if not self._is_http(item.place):
            return self.open(item)
        self._scratch.mkdir(parents=True, exist_ok=True)
        copy = self._scratch / "input.copy"
        with self.open(item) as stream, copy.open("wb") as out:
            shutil.copyfileobj(stream, out, 1 << 20)
        return copy.open("rb")

    def range(self, place: str, offset: int, length: int) -> bytes:
        """Exactly these bytes of a file anywhere. Raises InputError."""
        if self._is_http(place):
            return self.http.range(place, offset, length)
        place = self.variables.reveal(place)
        try:
            if place.startswith("s3://"):
                content = self.s3.cat_file(place, start=offset, end=offset + length)
            else:
                with open(place, "rb") as file:
                    file.seek(offset)
                    content = file.read(length)
        except (OSError, ValueError) as error:
            raise_machine_fault(error)
            raise InputError("input_unreadable", f"{place}: {error}") from None
        if len(content) != length:
            raise InputError("input_truncated", f"{place}: {len(content)} of {length} bytes at {offset}")
        return content


def open_s3(endpoint: str = "", anonymous: bool = False, retries: int = 5) -> Any:
    """s3fs on AWS or on another server."""
    import s3fs

    return s3fs.S3FileSystem(
        anon=anonymous,
        endpoint_url=endpoint or None,
        skip_instance_cache=True,
        use_listings_cache=False,
        config_kwargs={
            "retries": {"max_attempts": retries + 1, "mode": "standard"},
            # Servers other than AWS refuse or ignore the checksums that botocore adds by default.
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
        },
    )


def _before_magic(parts: tuple[str, ...]) -> list[str]:
    kept: list[str] = []
    for part in parts[:-1]:
        if _MAGIC & set(part):
            break
        kept.append(part)
    return kept or ["."]
