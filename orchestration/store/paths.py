"""Which paths and names every backend accepts.

The rule is the same for all backends, so that a store can be moved between them and a clone can be
checked out by Git on any system: what one backend refuses, all refuse.
"""

from __future__ import annotations

import re

from orchestration.store.contract import InvalidPathError, StoreError

MAX_PART_BYTES = 255  # what ext4, XFS, APFS and NTFS allow for one name
MAX_PATH_BYTES = 1024  # the key limit of S3, and so of lakeFS
MAX_DEPTH = 64  # folders within folders; ours need four

# Zero-width characters that macOS ignores in names: Git refuses to check out ".g<200c>it" because of them.
_IGNORABLE = re.compile("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]")
_CONTROL = re.compile("[\x00-\x1f\x7f\\\\]")
_HEX_ID = re.compile(r"[0-9a-f]{8,64}", re.IGNORECASE)
_SHA256 = re.compile(r"[0-9a-f]{64}")


def check_path(path: str) -> tuple[str, ...]:
    """The parts of a valid path. Raises InvalidPathError saying which rule the path breaks."""
    if not isinstance(path, str) or not path:
        raise InvalidPathError(f"{path!r} is not a path: give a relative POSIX path such as corpus/part.parquet")
    try:
        encoded = path.encode()
    except UnicodeEncodeError:
        raise InvalidPathError(f"{path!r} is not valid Unicode (it has a lone surrogate)") from None
    if len(encoded) > MAX_PATH_BYTES:
        raise InvalidPathError(f"path of {len(encoded)} bytes, limit {MAX_PATH_BYTES}: {path[:80]!r}...")
    if path.startswith("/"):
        raise InvalidPathError(f"{path!r} is absolute; paths in the store are relative")
    if bad := _CONTROL.search(path):
        raise InvalidPathError(f"{path!r} has the character {bad.group()!r}: no control characters, no backslash")
    parts = tuple(path.split("/"))
    if len(parts) > MAX_DEPTH:
        raise InvalidPathError(f"{path[:80]!r}... is {len(parts)} folders deep, limit {MAX_DEPTH}")
    for part in parts:
        _check_part(part, path)
    return parts


def _check_part(part: str, path: str) -> None:
    if part in ("", ".", ".."):
        raise InvalidPathError(f"{path!r} has the part {part!r}; every part must be a plain name")
    if len(part.encode()) > MAX_PART_BYTES:
        raise InvalidPathError(f"{path[:80]!r}... has a name of {len(part.encode())} bytes, limit {MAX_PART_BYTES}")
    plain = _IGNORABLE.sub("", part).casefold()
    if plain.startswith((".git", "git~")):
        raise InvalidPathError(f"{path!r}: names that begin with .git (or git~) belong to Git itself")


def check_removal(path: str) -> tuple[tuple[str, ...], bool]:
    """Parts of a path to remove, and whether it names a folder (ends in `/`)."""
    if isinstance(path, str) and path.endswith("/"):
        return check_path(path[:-1]), True
    return check_path(path), False


def check_name(name: str, kind: str) -> None:
    """Refuse branch and tag names that could be read as something else. Backends add their own rules."""
    if not name or name != name.strip() or name.startswith("-") or name == "HEAD":
        raise StoreError(f"{name!r} cannot be the name of a {kind}")
    if _HEX_ID.fullmatch(name):
        raise StoreError(f"{kind} name {name!r} could be taken for a commit id; choose another")


def check_sha256(sha256: str) -> str:
    """The digest itself. Raises StoreError unless it is 64 lower-case hex digits."""
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise StoreError(f"{sha256!r} is not a SHA-256 (64 lower-case hex digits)")
    return sha256


def is_sha256(text: str) -> bool:
    """Whether it is 64 lower-case hex digits."""
    return _SHA256.fullmatch(text) is not None


def looks_like_commit_id(ref: str) -> bool:
    """Whether a ref may be a commit id or a prefix of one (8 hex digits or more)."""
    return _HEX_ID.fullmatch(ref) is not None
