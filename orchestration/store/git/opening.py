"""Opens Git repositories, also such that are damaged, and says whether a pack is whole."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pygit2

from orchestration.store.git.loose import LooseObjects

TRAILER = 20
"""Bytes of the SHA-1 that packs and their indexes end in."""
_BEFORE_LIBGIT2S = 3
"""Its own readers have priorities 1 (loose) and 2 (packs)."""


def open_repository(place: Path | str) -> pygit2.Repository:
    """A Git repository that damage cannot hold up or end the process of: its loose objects are read by us, and libgit2
    (1.9.7) does not see an index of a pack that was altered, which can make it read outside the file.

    Raises what pygit2 raises for a folder that is none, and GitError for such an index.
    """
    repository = pygit2.Repository(str(place))
    git_dir = Path(repository.path)
    common = git_dir / "commondir"  # of a linked work tree
    git_dir = git_dir / common.read_text("utf-8").strip() if common.is_file() else git_dir
    for objects in _object_folders(git_dir / "objects"):
        for index in sorted((objects / "pack").glob("*.idx")):
            if not is_whole(index):
                raise pygit2.GitError(f"objects/pack/{index.name} does not have the checksum that it ends in")
        repository.odb.add_backend(LooseObjects(objects), _BEFORE_LIBGIT2S)
    return repository


def _object_folders(objects: Path) -> list[Path]:
    """The folder itself, and those that it borrows objects from (`git clone --shared`)."""
    found, todo = [], [objects]
    while todo:
        folder = todo.pop().resolve()
        alternates = folder / "info/alternates"
        if folder not in found:
            found.append(folder)
            if alternates.is_file():
                todo += [
                    folder / line for line in alternates.read_text("utf-8").splitlines() if line and line[0] != "#"
                ]
    return found


def is_whole(path: Path) -> bool:
    """Whether a pack, or the index of one, has the checksum that it ends in."""
    size = path.stat().st_size
    if size < 2 * TRAILER:
        return False
    digest = hashlib.sha1()
    with path.open("rb") as file:
        left = size - TRAILER
        while chunk := file.read(min(1 << 20, left)):
            digest.update(chunk)
            left -= len(chunk)
        return file.read() == digest.digest()
