"""Starts the lakeFS and S3 servers of a test session, once, and opens stores on them."""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3
import botocore.config

from orchestration.store.lakefs.settings import CACHE, ENDPOINT, KEY_ID, NAMESPACE, SECRET, LakefsSettings, Patience
from orchestration.store.lakefs.store import LakefsStore

ROOT = Path(__file__).resolve().parents[4]
BUCKET = "lake"
URLS = "HEADWATER_TEST_STORE_SERVERS"
QUICK = Patience(attempts=6, first_wait_s=0.01, longest_wait_s=0.1, connect_timeout_s=5.0, read_timeout_s=20.0)


def server_urls() -> dict[str, str]:
    """URLs of the servers; the first call starts them, child processes find them in the environment."""
    if URLS not in os.environ:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.orchestration.store.lakefs.lakefs_server"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert process.stdin and process.stdout
        atexit.register(process.stdin.close)
        urls = json.loads(process.stdout.readline())
        os.environ[URLS] = json.dumps(urls)
        os.environ.update(aws_environment(urls["s3"]))
        with contextlib.suppress(s3_client().exceptions.BucketAlreadyOwnedByYou):
            s3_client().create_bucket(Bucket=BUCKET)
    return json.loads(os.environ[URLS])


def aws_environment(s3: str) -> dict[str, str]:
    """What an S3 client reads."""
    return {
        "AWS_ENDPOINT_URL_S3": s3,
        "AWS_ACCESS_KEY_ID": "AK",
        "AWS_SECRET_ACCESS_KEY": "SK",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def store_environment(folder: Path, lakefs: str, s3: str) -> dict[str, str]:
    """What a `headwater` command needs to use the repository of a folder."""
    from tests.orchestration.store.lakefs.lakefs_server import KEY_ID as TEST_KEY
    from tests.orchestration.store.lakefs.lakefs_server import SECRET as TEST_SECRET

    return {
        ENDPOINT: lakefs,
        KEY_ID: TEST_KEY,
        SECRET: TEST_SECRET,
        NAMESPACE: f"s3://{BUCKET}/{repository_of(folder)}",
        **aws_environment(s3),
    }


def repository_of(folder: Path) -> str:
    """A repository of its own for each folder."""
    return "r-" + hashlib.sha256(str(folder).encode()).hexdigest()[:20]


def settings_for(folder: Path, lakefs: str, s3: str, patience: Patience = QUICK) -> LakefsSettings:
    """Settings of the repository of a folder."""
    environ = {**store_environment(folder, lakefs, s3), "HEADWATER_OBJECT_CACHE": str(folder / "object-cache")}
    from_environment = LakefsSettings.from_environment(f"lakefs://{repository_of(folder)}", environ)
    return LakefsSettings(**{**vars(from_environment), "patience": patience})


def lakefs_store(folder: Path) -> LakefsStore:
    """The store of a folder on the session's servers."""
    urls = server_urls()
    return LakefsStore(settings_for(folder, urls["lakefs"], urls["s3"]))


@functools.cache
def s3_client() -> Any:
    """A plain S3 client, for tests that look at the bucket or damage it."""
    config = botocore.config.Config(
        request_checksum_calculation="when_required", response_checksum_validation="when_required"
    )
    return boto3.client("s3", config=config)


class BucketObject:
    """An object of the bucket, with the methods of a Path that tests use to damage one."""

    def __init__(self, bucket: str, key: str) -> None:
        self.bucket, self.key = bucket, key

    def exists(self) -> bool:
        found = s3_client().list_objects_v2(Bucket=self.bucket, Prefix=self.key)
        return any(item["Key"] == self.key for item in found.get("Contents", ()))

    def unlink(self) -> None:
        s3_client().delete_object(Bucket=self.bucket, Key=self.key)

    def write_bytes(self, content: bytes) -> None:
        s3_client().put_object(Bucket=self.bucket, Key=self.key, Body=content)

    def chmod(self, mode: int) -> None:
        """S3 has no modes."""


def bucket_object(folder: Path, sha256: str) -> BucketObject:
    """Where the bytes of a SHA-256 lie."""
    return _object_of(f"s3://{BUCKET}/{repository_of(folder)}", sha256)


def _object_of(namespace: str, sha256: str) -> BucketObject:
    bucket, _, prefix = namespace.removeprefix("s3://").partition("/")
    return BucketObject(bucket, f"{prefix}-objects/sha256/{sha256[:2]}/{sha256[2:4]}/{sha256}")


def real_settings(folder: Path) -> LakefsSettings:
    """A repository of its own for each folder on the server that the environment names."""
    name = repository_of(folder)
    namespace = f"{os.environ[NAMESPACE].rstrip('/')}/{name}"
    environ = {**os.environ, NAMESPACE: namespace, CACHE: str(folder / "object-cache")}
    return LakefsSettings.from_environment(f"lakefs://{name}", environ)


def real_bucket_object(folder: Path, sha256: str) -> BucketObject:
    """Where the bytes of a SHA-256 lie in the bucket of that server."""
    return _object_of(real_settings(folder).namespace or "", sha256)
