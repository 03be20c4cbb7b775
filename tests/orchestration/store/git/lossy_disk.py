"""A disk that loses what was not synced: system calls of a real run, replayed on a model of a filesystem.

strace writes down every call of a child that changes files, libgit2's included. The model keeps, of each file and
folder, what programs see and what the disk is bound to keep: a file's bytes after fsync, a folder's names after
fsync of the folder, everything after syncfs. Of the rest, a power loss may keep any part: `after_power_loss`.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

CALLS = (
    *("open", "openat", "creat", "close", "write", "pwrite64", "writev", "lseek", "ftruncate", "truncate", "fallocate"),
    *(
        "fsync",
        "fdatasync",
        "syncfs",
        "sync",
        "rename",
        "renameat",
        "renameat2",
        "link",
        "linkat",
        "unlink",
        "unlinkat",
    ),
    *("mkdir", "mkdirat", "rmdir", "symlink", "symlinkat", "copy_file_range", "sendfile", "dup", "dup2", "dup3"),
)
HARMLESS = {"close", "lseek"}
_LINE = re.compile(r"(\w+)\((.*)\)\s+= (-?\d+)")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')
_FD = re.compile(r"(\d+)")


@dataclass(eq=False)
class Node:
    """A file (bytes) or a folder (names): as programs see it, and as it is bound to stay."""

    seen: bytes | dict[str, Node]
    kept: bytes | dict[str, Node]

    def sync(self) -> None:
        self.kept = dict(self.seen) if isinstance(self.seen, dict) else self.seen


@dataclass(frozen=True)
class Call:
    """One system call that succeeded."""

    name: str
    arguments: str
    result: int

    def strings(self) -> list[bytes]:
        found = _STRING.findall(self.arguments)
        assert not any(cut for _, cut in found), "strace cut a string off"
        return [bytes.fromhex(text.replace("\\x", "")) for text, _ in found]

    def fd(self) -> int:
        found = _FD.match(self.arguments)
        assert found, self
        return int(found.group(1))


def record(command: list[str], cwd: Path, trace: Path) -> list[Call]:
    """Run a command under strace. Raises CalledProcessError with its words if it fails."""
    strace = ["strace", "-qq", "-xx", "-s", "16777216", "-o", str(trace), "-e", f"trace={','.join(CALLS)}"]
    done = subprocess.run([*strace, *command], cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(f"{command} ended with {done.returncode}: {done.stderr[-2000:]}")
    found = (_LINE.match(line) for line in trace.read_text().splitlines())
    return [Call(match[1], match[2], int(match[3])) for match in found if match and int(match[3]) >= 0]


@dataclass
class LossyDisk:
    """The folder `place`, as it was (all of it durable), and what calls make of it."""

    place: Path
    root: Node = field(init=False)
    fds: dict[int, tuple[Node, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.root = _load(self.place, {})

    # --- calls

    def apply(self, call: Call) -> bool:
        """Whether the call changed what is seen or what is kept."""
        name = call.name.removesuffix("at2").removesuffix("at")
        if name in ("open", "creat"):
            return self._open(call)
        if name == "close":
            self.fds.pop(call.fd(), None)
            return False
        if name == "sync":
            return self._sync_all()
        if name in ("rename", "link", "unlink", "mkdir", "rmdir", "symlink", "truncate"):
            return self._names(name, call)
        if call.fd() not in self.fds:
            return False
        node, at = self.fds[call.fd()]
        if name in ("fsync", "fdatasync"):
            node.sync()
        elif name == "syncfs":
            return self._sync_all()
        elif name == "write":
            assert isinstance(node.seen, bytes)
            data = call.strings()[0][: call.result]
            node.seen = node.seen[:at] + data + node.seen[at + len(data) :]
            self.fds[call.fd()] = (node, at + len(data))
        elif name not in HARMLESS:
            raise AssertionError(f"the model does not know {call.name}, which the store calls on its files")
        return name not in HARMLESS

    def _open(self, call: Call) -> bool:
        parent, name = self._locate(call.strings()[0])
        if parent is None:
            return False
        assert isinstance(parent.seen, dict)
        node = parent.seen.get(name) if name else self.root
        created = node is None and "O_CREAT" in call.arguments
        if created:
            node = parent.seen[name] = Node(b"", b"")
        assert node is not None, f"{call} opened what the model does not have"
        if "O_TRUNC" in call.arguments:
            node.seen = b""
        self.fds[call.result] = (node, 0)
        return created

    def _names(self, name: str, call: Call) -> bool:
        paths = [self._locate(path) for path in call.strings()]
        if all(parent is None for parent, _ in paths):
            return False
        assert all(parent is not None for parent, _ in paths), f"{call} leaves the modelled folder"
        assert name not in ("symlink", "truncate"), f"the model does not know {name}"
        folders = [parent.seen for parent, _ in paths if parent]
        first = folders[0]
        assert isinstance(first, dict)
        if name == "mkdir":
            first[paths[0][1]] = Node({}, {})
        elif name in ("unlink", "rmdir"):
            del first[paths[0][1]]
        else:
            second = folders[1]
            assert isinstance(second, dict)
            if second.get(paths[1][1]) is first[paths[0][1]]:
                return False  # rename between two names of one file does nothing
            second[paths[1][1]] = first[paths[0][1]]
            if name == "rename":
                del first[paths[0][1]]
        return True

    def _locate(self, path: bytes) -> tuple[Node | None, str]:
        """The folder that a path names something in, and the name; None for what lies elsewhere."""
        relative = os.path.relpath(os.path.normpath(path.decode()), self.place) if path.startswith(b"/") else ".."
        if relative.startswith(".."):
            return None, ""
        if relative == ".":
            return self.root, ""
        node = self.root
        *folders, name = relative.split("/")
        for folder in folders:
            assert isinstance(node.seen, dict)
            node = node.seen[folder]
        return node, name

    def _sync_all(self) -> bool:
        for node in _below(self.root, set()):
            node.sync()
        return True

    # --- power loss

    def after_power_loss(self, survives: Callable[[], float]) -> dict[str, bytes | None]:
        """A state that a power loss now may leave, by path (None: a folder); `survives` says what share of the rest."""
        found: dict[str, bytes | None] = {}
        _left(self.root, "", survives, found, {})
        return found


def write_files(target: Path, files: dict[str, bytes | None]) -> None:
    """Make a real folder of such a state."""
    for path, content in files.items():
        if content is None:
            (target / path).mkdir()
        else:
            (target / path).write_bytes(content)


def only_synced() -> float:
    """The harshest loss: nothing that was not synced is there."""
    return 0.0


def by_chance(seed: int) -> Callable[[], float]:
    """Some names and some bytes had reached the disk by themselves, others had not."""
    draw = random.Random(seed)
    return lambda: draw.choice((0.0, 0.5, 1.0))


def _load(path: Path, known: dict[int, Node]) -> Node:
    if path.is_dir():
        names = {each.name: _load(each, known) for each in sorted(path.iterdir())}
        return Node(names, dict(names))
    inode = path.stat().st_ino
    if inode not in known:
        content = path.read_bytes()
        known[inode] = Node(content, content)
    return known[inode]


def _below(node: Node, met: set[int]) -> Iterator[Node]:
    if id(node) in met:
        return
    met.add(id(node))
    yield node
    if isinstance(node.seen, dict):
        for each in node.seen.values():
            yield from _below(each, met)


def _left(
    node: Node, path: str, survives: Callable[[], float], found: dict[str, bytes | None], files: dict[int, bytes]
) -> None:
    if isinstance(node.seen, dict):
        assert isinstance(node.kept, dict)
        found[path] = None
        for name in sorted(node.seen.keys() | node.kept.keys()):
            seen, kept = node.seen.get(name), node.kept.get(name)
            chosen = kept if seen is kept or survives() < 1.0 else seen
            if chosen is not None:
                _left(chosen, f"{path}/{name}".lstrip("/"), survives, found, files)
        return
    assert isinstance(node.kept, bytes)
    if id(node) not in files:  # a file with two names has one content
        share = 0.0 if node.seen == node.kept else survives()
        files[id(node)] = node.kept if share == 0.0 else node.seen[: int(len(node.seen) * share)]
    found[path] = files[id(node)]


def python(script: str, *arguments: str) -> list[str]:
    """A command that runs a script in this interpreter."""
    return [sys.executable, "-c", script, *arguments]
