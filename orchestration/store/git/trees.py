"""Pure functions over Git trees: edit, three-way merge, difference, walk.

All of them follow only the folders that differ (equal trees have equal ids), so their cost follows
the change, not the size of the commit. Nothing here reads file content.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from orchestration.store.contract import InvalidPathError
from orchestration.store.git.objects import BLOB, TREE, Entries, Entry, NewObjects

Parts = tuple[str, ...]


class TreeReader(Protocol):
    """Anything that knows trees by id."""

    def tree(self, oid: str) -> Entries: ...


def is_tree(entry: Entry | None) -> bool:
    """Whether an entry is a folder."""
    return entry is not None and entry[0] == TREE


def find(reader: TreeReader, root: str, parts: Sequence[str]) -> Entry | None:
    """The entry at a path, a file or a folder."""
    entry: Entry | None = (TREE, root)
    for part in parts:
        if entry is None or not is_tree(entry):
            return None
        entry = reader.tree(entry[1]).get(part)
    return entry


def leaves(reader: TreeReader, root: str, prefix: str = "", at: str = "") -> Iterator[tuple[str, Entry]]:
    """Files whose path begins with `prefix`, sorted (Git's order of entries is the order of paths)."""
    for name, entry in reader.tree(root).items():
        path = at + name
        if is_tree(entry):
            folder = path + "/"
            if folder.startswith(prefix) or prefix.startswith(folder):
                yield from leaves(reader, entry[1], prefix, folder)
        elif path.startswith(prefix):
            yield path, entry


def differences(
    reader: TreeReader, before: str | None, after: str | None, prefix: str = "", at: str = ""
) -> Iterator[tuple[str, Entry | None, Entry | None]]:
    """Files that differ between two trees (None = an empty one), in no promised order."""
    if before == after:
        return
    old = reader.tree(before) if before else {}
    new = reader.tree(after) if after else {}
    for name in sorted(old.keys() | new.keys()):
        left, right = old.get(name), new.get(name)
        path = at + name
        if left == right or not (path + "/").startswith(prefix[: len(path) + 1]):
            continue
        left_tree, right_tree = is_tree(left), is_tree(right)
        if left_tree or right_tree:
            yield from differences(
                reader,
                left[1] if left and left_tree else None,
                right[1] if right and right_tree else None,
                prefix,
                path + "/",
            )
        left_file, right_file = None if left_tree else left, None if right_tree else right
        if left_file != right_file and path.startswith(prefix):
            yield path, left_file, right_file


@dataclass
class Edits:
    """What to do inside one folder: removals first, then puts."""

    removals: list[tuple[Parts, bool]] = field(default_factory=list)
    puts: dict[Parts, str] = field(default_factory=dict)


def edit(objects: NewObjects, root: str | None, edits: Edits, at: str = "") -> str | None:
    """The tree after the edits; None when nothing is left. Raises InvalidPathError on file/folder clashes."""
    entries = dict(objects.tree(root)) if root else {}
    below: dict[str, Edits] = {}
    for parts, folder in edits.removals:
        name = parts[0]
        if len(parts) > 1:
            below.setdefault(name, Edits()).removals.append((parts[1:], folder))
        elif name in entries and is_tree(entries[name]) == folder:
            del entries[name]
    for parts, oid in edits.puts.items():
        if len(parts) > 1:
            below.setdefault(parts[0], Edits()).puts[parts[1:]] = oid
    for name, inner in below.items():
        entry = entries.get(name)
        if entry and not is_tree(entry):
            if inner.puts:
                raise InvalidPathError(
                    f"{at}{name} is a file; it cannot also be the folder of {_first(at, name, inner)}"
                )
            continue
        kept = edit(objects, entry[1] if entry else None, inner, f"{at}{name}/")
        if kept:
            entries[name] = (TREE, kept)
        else:
            entries.pop(name, None)
    for parts, oid in edits.puts.items():
        if len(parts) == 1:
            if is_tree(entries.get(parts[0])):
                raise InvalidPathError(f"{at}{parts[0]} is a folder; it cannot also be a file")
            entries[parts[0]] = (BLOB, oid)
    return objects.add_tree(entries) if entries else None


def _first(at: str, name: str, inner: Edits) -> str:
    return at + "/".join((name, *min(inner.puts)))


def merge(
    objects: NewObjects,
    base: Entry | None,
    ours: Entry | None,
    theirs: Entry | None,
    conflicts: list[str],
    at: str = "",
) -> Entry | None:
    """Three-way merge by path; paths that both sides changed differently go into `conflicts`.

    A name may be a file on one side and a folder on another: both are merged apart, and only a
    result that needs both is a conflict.
    """
    if ours == theirs or base == theirs:
        return ours
    if base == ours:
        return theirs
    sides = (base, ours, theirs)
    base_file, our_file, their_file = (None if is_tree(side) else side for side in sides)
    if our_file == their_file or base_file == their_file:
        file = our_file
    elif base_file == our_file:
        file = their_file
    else:
        conflicts.append(at)
        file = our_file
    folder = _merge_folders(objects, sides, conflicts, at) if any(is_tree(side) for side in sides) else None
    if file and folder:
        conflicts.extend([at, *(path for path, _ in leaves(objects, folder[1], at=f"{at}/"))])
    return folder or file


def _merge_folders(objects: NewObjects, sides: tuple[Entry | None, ...], conflicts: list[str], at: str) -> Entry | None:
    folders = [_entries(objects, side) for side in sides]
    merged: dict[str, Entry] = {}
    for name in sorted(set().union(*folders)):
        base, ours, theirs = (folder.get(name) for folder in folders)
        entry = merge(objects, base, ours, theirs, conflicts, f"{at}/{name}" if at else name)
        if entry:
            merged[name] = entry
    return (TREE, objects.add_tree(merged)) if merged else None


def _entries(objects: NewObjects, side: Entry | None) -> Mapping[str, Entry]:
    return objects.tree(side[1]) if side is not None and is_tree(side) else {}
