"""Names of branches and tags in lakeFS, which allows letters, digits, `-` and `_` only.

build/corpus/1  ->  build_2fcorpus_2f1        every other byte as _ and two hex digits
"""

from __future__ import annotations

import re

import pygit2

from orchestration.store.contract import StoreError
from orchestration.store.paths import check_name

_CODED = re.compile(r"(?:[A-Za-z0-9-]|_[0-9a-f]{2})+")
TRANSIT = "_work-"
"""Prefix of the branches on which a commit or merge is prepared: no coded name begins like it."""


def encode(name: str) -> str:
    """The lakeFS name of a branch or tag."""
    return "".join(
        chr(byte) if (chr(byte).isalnum() and byte < 128) or byte == 0x2D else f"_{byte:02x}"
        for byte in name.encode("utf-8", "surrogatepass")
    )


def decode(coded: str) -> str | None:
    """The name, or None for a branch or tag that was not made by Headwater."""
    if not _CODED.fullmatch(coded):
        return None
    raw = re.sub(rb"_([0-9a-f]{2})", lambda match: bytes.fromhex(match[1].decode()), coded.encode())
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        return None
    return name if encode(name) == coded else None


def check_new(name: str, kind: str, branches: dict[str, str], tags: dict[str, str]) -> None:
    """Refuse a name that the Git backend would refuse too, so that a store can be moved between them."""
    check_name(name, kind)
    if not pygit2.reference_is_valid_name(f"refs/heads/{name}"):
        raise StoreError(f"{name!r} cannot be the name of a {kind}: no spaces, ~ ^ : ? * [ \\ and ..")
    for other_kind, others in (("branch", branches), ("tag", tags)):
        if name in others:
            raise StoreError(f"there is a {other_kind} {name!r} already; choose another name for the {kind}")
    for other in branches if kind == "branch" else tags:
        if other.startswith(name + "/") or name.startswith(other + "/"):
            raise StoreError(f"{kind} {name!r} is not possible beside {other!r}: one is the other's folder")
