"""Requests to one folder of an S3 bucket, each repeated until it has a definite answer."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from orchestration.store.contract import StoreError
from orchestration.store.lakefs.retrying import TransientError, persist, retry_after_s
from orchestration.store.lakefs.settings import Patience

RANGE_BYTES = 8 << 20
BYTES = "application/octet-stream"
T = TypeVar("T")


@dataclass(frozen=True)
class Stored:
    """One object, as S3 tells it."""

    size_bytes: int
    etag: str
    age_s: float


class UnreadableMarkError(TransientError):
    """A small file that is no JSON object: an answer that was cut short, or damage."""


class S3Bucket:
    """Everything under `s3://bucket/prefix`. Missing objects are FileNotFoundError."""

    def __init__(self, area: str, patience: Patience) -> None:
        import s3fs

        self.area = area.removeprefix("s3://").rstrip("/")
        self.bucket, _, self._prefix = self.area.partition("/")
        self.patience = patience
        self._fs: Any = s3fs.S3FileSystem(
            config_kwargs={
                # lakeFS, Ceph and MinIO of some versions refuse or mishandle the newer checksum trailers
                "request_checksum_calculation": "when_required",
                "response_checksum_validation": "when_required",
                "connect_timeout": patience.connect_timeout_s,
                "read_timeout": patience.read_timeout_s,
                "retries": {"total_max_attempts": 1},  # counted here, once, for all causes
            },
            use_listings_cache=False,
            skip_instance_cache=True,
        )
        self._fs.retries = 1

    def key(self, name: str) -> str:
        """Key within the bucket."""
        return f"{self._prefix}/{name}"

    def address(self, name: str) -> str:
        """URL of an object."""
        return f"s3://{self.bucket}/{self.key(name)}"

    def call(self, action: str, request: Callable[[], T]) -> T:
        """Repeat a request until its answer is definite."""

        def attempt(_: int) -> T:
            try:
                return request()
            except FileNotFoundError as error:
                judged = translated(error, action)
                raise (judged if isinstance(judged, StoreError) else error) from error  # the bucket itself is missing
            except (StoreError, FileExistsError, TransientError):
                raise
            except Exception as error:
                raise translated(error, action) from error

        return persist(attempt, self.patience, action)

    def _s3(self, method: str, name: str, **arguments: Any) -> Any:
        return self._fs.call_s3(method, Bucket=self.bucket, Key=self.key(name), **arguments)

    # --- objects

    def head(self, name: str) -> Stored | None:
        """What S3 says of an object, or None if it is not there."""
        try:
            return self.call(f"look for {name}", lambda: _stored(self._s3("head_object", name)))
        except FileNotFoundError:
            return None

    def read(self, name: str) -> bytes:
        """Whole content, as it came: the caller checks it."""
        return self.call(f"read {name}", lambda: self._fs.cat_file(f"{self.area}/{name}"))

    def download(self, name: str, target: Path) -> None:
        """Whole content into a local file, as it came: the caller checks it."""
        self.call(f"read {name}", lambda: self._fs.get_file(f"{self.area}/{name}", str(target)))

    def size_and_digest(self, name: str, expected_bytes: int) -> tuple[int, str]:
        """Size and SHA-256 of an object; a large one is read in ranges, so that memory stays bounded."""

        def read() -> tuple[int, str]:
            if expected_bytes <= RANGE_BYTES:
                data = self._fs.cat_file(f"{self.area}/{name}")
                return len(data), hashlib.sha256(data).hexdigest()
            size = int(self._s3("head_object", name)["ContentLength"])
            hasher = hashlib.sha256()
            for start in range(0, size, RANGE_BYTES):
                hasher.update(self._fs.cat_file(f"{self.area}/{name}", start=start, end=min(start + RANGE_BYTES, size)))
            return size, hasher.hexdigest()

        return self.call(f"read {name}", read)

    def send(self, name: str, content: Path | bytes, metadata: Mapping[str, str], part_bytes: int) -> str | None:
        """Upload, not repeated here; a file of two parts or more by multipart. The ETag, where the server tells it."""
        if isinstance(content, Path):
            self._fs.put_file(
                os.path.realpath(content),
                f"{self.area}/{name}",
                chunksize=part_bytes,
                Metadata=dict(metadata),
                ContentType=BYTES,
            )
            return None
        answer = self._s3("put_object", name, Body=bytes(content), Metadata=dict(metadata), ContentType=BYTES)
        return str(answer["ETag"]).strip('"')

    def renew(self, name: str, metadata: Mapping[str, str]) -> None:
        """Copy an object onto itself within S3, which makes it young."""
        source = {"Bucket": self.bucket, "Key": self.key(name)}
        options = {"MetadataDirective": "REPLACE", "Metadata": dict(metadata), "ContentType": BYTES}
        self.call(f"renew {name}", lambda: self._s3("copy_object", name, CopySource=source, **options))

    def delete(self, name: str) -> None:
        """Delete an object; one that is not there is no error."""
        self.call(f"delete {name}", lambda: self._s3("delete_object", name))

    def list(self, folder: str) -> dict[str, Stored]:
        """Name below the folder -> what is stored, of everything in it."""

        def listing() -> dict[str, Stored]:
            found = self._fs.find(f"{self.area}/{folder}/", detail=True)
            return {name: _stored(info) for name, info in found.items()}

        start = len(f"{self.area}/{folder}/")
        try:
            return {name[start:]: stored for name, stored in self.call(f"list {folder}", listing).items()}
        except FileNotFoundError:
            return {}

    # --- small JSON files

    def write_mark(self, name: str, content: Mapping[str, str], **condition: str) -> None:
        """Create or replace a small JSON file. Raises FileExistsError with IfNoneMatch="*"."""
        body = json.dumps(dict(content), ensure_ascii=False, sort_keys=True).encode() + b"\n"
        self.call(f"write {name}", lambda: self._s3("put_object", name, Body=body, **condition))

    def read_mark(self, name: str) -> dict[str, str] | None:
        """A small JSON file, or None. Raises StoreUnavailableError from UnreadableMarkError for one that stays damaged."""

        def read() -> dict[str, str]:
            data = self._fs.cat_file(f"{self.area}/{name}")
            try:
                found = json.loads(data)
            except ValueError:
                found = None
            if not isinstance(found, dict):
                raise UnreadableMarkError(f"{name} came back as {len(data)} bytes that are no JSON object")
            return found

        try:
            return self.call(f"read {name}", read)
        except FileNotFoundError:
            return None


def _stored(info: Mapping[str, Any]) -> Stored:
    size = info["ContentLength"] if "ContentLength" in info else info["size"]
    age_s = (datetime.now(UTC) - info["LastModified"]).total_seconds()
    return Stored(int(size), str(info["ETag"]).strip('"'), age_s)


def translated(error: Exception, action: str) -> Exception:
    """A definite refusal becomes a StoreError or FileExistsError; everything else may be tried again."""
    cause: BaseException | None = error
    while cause is not None:
        response = getattr(cause, "response", None)
        if isinstance(response, Mapping):
            return _judged(response, action)
        cause = cause.__cause__
    if type(error).__name__ == "NoCredentialsError":
        return StoreError(f"could not {action}: no S3 credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    return TransientError(f"{type(error).__name__}: {str(error)[:200]}")


def _judged(response: Mapping[str, Any], action: str) -> Exception:
    about = response.get("ResponseMetadata", {})
    status, code = about.get("HTTPStatusCode", 0), response.get("Error", {}).get("Code", "")
    if status in (401, 403) or code in ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"):
        return StoreError(
            f"could not {action}: the S3 server refuses the credentials ({code or status}). "
            "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to keys that may read and write the bucket."
        )
    if code == "NoSuchBucket":
        return StoreError(f"could not {action}: the bucket does not exist; create it, or correct the namespace")
    if status == 412 or code == "PreconditionFailed":
        return FileExistsError(action)
    return TransientError(f"{code or 'HTTP'} {status}", retry_after_s(about.get("HTTPHeaders", {}).get("retry-after")))
