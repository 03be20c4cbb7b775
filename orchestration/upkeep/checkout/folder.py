"""A folder that is there whole or not at all, filled with files of the store."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestration.identity.catalog import mend_damaged, way_out
from orchestration.store.contract import CorruptObjectError, PurgedObjectError, VersionedStore
from orchestration.upkeep.checkout.choosing import CheckoutError
from orchestration.upkeep.taken_down import asset_and_partition

CHUNK_BYTES = 8 * 2**20

Place = tuple[str, str]
"""(commit, path) of a file of the store."""


def refuse_occupied(folder: Path) -> None:
    """Raises CheckoutError unless the folder is not there, or empty and replaceable."""
    if folder.is_dir():
        if any(folder.iterdir()):
            raise CheckoutError(f"{folder} is not empty: name a folder that is not there yet, or an empty one.")
        here = folder == Path.cwd()
        if here or folder.is_mount():
            what = "the current folder" if here else "a mount point"
            raise CheckoutError(f"{folder} is {what}, which cannot be replaced in one step: name a folder in it.")
    elif folder.exists():
        raise CheckoutError(f"{folder} is a file: name a folder that is not there yet.")


def refuse_full(store: VersionedStore, places: Iterable[Place], folder: Path) -> None:
    """Raises CheckoutError when the files do not fit on the disk: before the first of perhaps hundreds of gigabytes."""
    needed = sum(store.stat(*place).size_bytes for place in places)
    disk = next(each for each in folder.parents if each.is_dir())
    free = shutil.disk_usage(disk).free
    if needed > free:
        raise CheckoutError(f"{folder} needs {needed:,} bytes, and {disk} has {free:,} free: name a folder elsewhere.")


@contextmanager
def whole_or_absent(folder: Path) -> Iterator[Path]:
    """A folder beside `folder`, which gets its name at the end of the block; what a killed one left goes first."""
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(unfinished, folder):
            try:
                for left in unfinished.iterdir():
                    left.unlink()
                yield unfinished
                os.replace(unfinished, folder)
            except BaseException:
                shutil.rmtree(unfinished, ignore_errors=True)
                raise
    except OSError as error:
        raise CheckoutError(
            f"{folder} cannot be written: {error.strerror or error}. Nothing was left there."
        ) from error


@contextmanager
def _locked(unfinished: Path, folder: Path) -> Iterator[None]:
    unfinished.mkdir(exist_ok=True)
    handle = os.open(unfinished, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not unfinished.is_dir() or not os.path.samestat(unfinished.stat(), os.fstat(handle)):
            raise BlockingIOError  # the other one has just finished
        yield
    except BlockingIOError:
        raise CheckoutError(
            f"another `headwater checkout` writes {folder}: wait for it, or name another folder."
        ) from None
    finally:
        os.close(handle)


def copy_file(store: VersionedStore, place: Place, target: Path) -> str:
    """Copy one file, durably; returns its SHA-256. Raises StoreError for one that is damaged or taken down."""
    asset, partition = asset_and_partition(place[1])
    wanted = store.stat(*place).sha256
    digest = hashlib.sha256()
    try:
        with store.open(*place) as source, target.open("xb") as out:
            while chunk := source.read(CHUNK_BYTES):
                digest.update(chunk)
                out.write(chunk)
            out.flush()
            os.fsync(out.fileno())
    except PurgedObjectError as error:
        raise PurgedObjectError(f"{error} {way_out(asset, partition)}") from None
    except CorruptObjectError as error:
        raise CorruptObjectError(f"{error} {mend_damaged([asset])}", error.sha256) from None
    if digest.hexdigest() != wanted:
        raise CorruptObjectError(
            f"{place[1]}: the bytes of object {wanted} have another SHA-256: altered after they were published. Nothing "
            f"was checked out. {mend_damaged([asset])}",
            wanted,
        )
    return wanted
