"""The contract suite runs against every backend: each test takes `store`, which is one of them.

A backend is a `Backend`: how to open it, and how a test can reach the stored bytes to damage them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestration.store.contract import VersionedStore
from orchestration.store.git.store import GitStore
from orchestration.store.lakefs.settings import ENDPOINT
from orchestration.store.lakefs.store import LakefsStore
from tests.orchestration.store.lakefs import servers


@dataclass(frozen=True)
class Backend:
    """One kind of store, opened at one place."""

    name: str
    open: Callable[[], VersionedStore]
    object_path: Callable[[str], Any]
    """Where the bytes of a SHA-256 lie (a Path, or what behaves like one), for tests that damage them."""


def git_backend(folder: Path) -> Backend:
    """The embedded store under `folder`."""
    place = folder / "store.git"
    return Backend("git", lambda: GitStore.at(place), lambda sha256: GitStore.at(place).lfs.path(sha256))


def lakefs_backend(folder: Path) -> Backend:
    """A repository on the lakeFS and S3 servers of this session (servers.py)."""
    servers.server_urls()
    return Backend("lakefs", lambda: servers.lakefs_store(folder), lambda sha256: servers.bucket_object(folder, sha256))


def real_lakefs_backend(folder: Path) -> Backend:
    """A repository on the real lakeFS server that the environment names (docs/store.md)."""
    return Backend(
        "real-lakefs",
        lambda: LakefsStore(servers.real_settings(folder)),
        lambda sha256: servers.real_bucket_object(folder, sha256),
    )


BACKENDS: dict[str, Callable[[Path], Backend]] = {"git": git_backend, "lakefs": lakefs_backend}
if os.environ.get(ENDPOINT):
    BACKENDS["real-lakefs"] = real_lakefs_backend


@pytest.fixture(params=sorted(BACKENDS))
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    return BACKENDS[request.param](tmp_path)


@pytest.fixture
def store(backend: Backend) -> VersionedStore:
    return backend.open()


@pytest.fixture(autouse=True)
def quick_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests kill processes, not the machine: what fsync adds is held by test_power_loss.py, whose children
    sync for true; waiting for the disk would be most of the time."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


def tree(store: VersionedStore, ref: str = "main") -> dict[str, bytes]:
    """Everything at a ref, read with hash verification."""
    return {info.path: store.read_bytes(ref, info.path) for info in store.list(ref)}


def sha256_of(store: VersionedStore, path: str, ref: str = "main") -> str:
    """Digest of one file."""
    return store.stat(ref, path).sha256


def damage(path: Any, content: bytes) -> None:
    """Overwrite an object in place, as a bad disk would."""
    path.chmod(0o644)
    path.write_bytes(content)
