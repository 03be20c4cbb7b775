"""Every request of a build to the lakeFS server and to S3 fails once, in every way: a retry, never data.

The build makes a branch, a commit (one file by path), a merge, a tag, deletes the branch and reads back.
Proxies (faulty_proxy.py) stand before both servers; for each fault and each n the n-th request meets it. After
each run: exactly one commit for each that was asked for, the content is right, no work branch is left, verify
finds nothing. lakeFS is the test server (lakefs_server.py), S3 the one of servers.py.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestration.store.contract import StoreError
from orchestration.store.lakefs.settings import Patience
from orchestration.store.lakefs.store import LakefsStore
from tests.orchestration.store.lakefs import servers
from tests.orchestration.store.lakefs.faulty_proxy import FAULTS, HANG_S, FaultyProxy

OLD = {"a/1": b"1", "b": b"2"}
NEW = {"a/1": b"new", "c/d": b"by path"}
IMPATIENT = Patience(
    attempts=6, first_wait_s=0.01, longest_wait_s=0.05, connect_timeout_s=2.0, read_timeout_s=HANG_S / 2
)


@dataclass(frozen=True)
class Row:
    """What one fault did. `problem`: empty, or what was broken."""

    server: str
    fault: str
    nth: int
    request: str
    problem: str


@dataclass(frozen=True)
class Proxies:
    """Both servers, each behind its proxy."""

    lakefs: FaultyProxy
    s3: FaultyProxy

    def of(self, server: str) -> FaultyProxy:
        return self.lakefs if server == "lakefs" else self.s3

    def rest(self) -> None:
        """No faults; count from zero."""
        self.lakefs.arm("", 0)
        self.s3.arm("", 0)

    def store(self, folder: Path, patience: Patience = IMPATIENT) -> LakefsStore:
        """The store of a folder, reached through the proxies."""
        return LakefsStore(servers.settings_for(folder, self.lakefs.url, self.s3.url, patience))


@contextmanager
def proxies() -> Iterator[Proxies]:
    """Start both proxies, and let S3 clients of this process use theirs."""
    urls = servers.server_urls()
    both = Proxies(FaultyProxy(urls["lakefs"]), FaultyProxy(urls["s3"]))
    before = os.environ["AWS_ENDPOINT_URL_S3"]
    os.environ["AWS_ENDPOINT_URL_S3"] = both.s3.url
    try:
        yield both
    finally:
        os.environ["AWS_ENDPOINT_URL_S3"] = before
        both.lakefs.close()
        both.s3.close()


def build(store: LakefsStore, folder: Path) -> None:
    """The work that is disturbed."""
    store.create_branch("build/x/1")
    store.commit("build/x/1", {"a/1": b"new", "c/d": folder / "source"}, ["b"], message="staged")
    store.merge("build/x/1", message="published", metadata={"asset": "x"})
    store.tag("v1", "main")
    store.delete_branch("build/x/1")
    assert store.read_bytes("main", "a/1") == b"new"
    assert store.local_path("main", "c/d").read_bytes() == b"by path"


def prepare(both: Proxies, folder: Path) -> LakefsStore:
    """A store with one commit, and the file of the next."""
    (folder / "source").write_bytes(b"by path")
    both.rest()
    store = both.store(folder)
    store.commit("main", OLD, message="base")
    both.rest()
    return store


def examine(store: LakefsStore) -> str:
    """What is wrong after a build; empty if nothing is."""
    messages = Counter(commit.message for commit in store.log())
    if messages != Counter({"published": 1, "staged": 1, "base": 1, "Repository created": 1}):
        return f"the history is {messages}"
    content = {info.path: store.read_bytes("main", info.path) for info in store.list("main")}
    if content != NEW:
        return f"main holds {content}"
    if set(store.api.branches()) != {"main"} or store.tags() != {"v1": store.resolve("main")}:
        return f"branches {sorted(store.api.branches())}, tags {store.tags()}"
    return f"verify: {damage}" if (damage := store.verify().damage) else ""


def inject(both: Proxies, folder: Path, server: str, fault: str, nth: int, every: int = 0) -> Row:
    """One run in an empty folder."""
    store = prepare(both, folder)
    both.of(server).arm(fault, nth, every)
    problem = ""
    try:
        build(store, folder)
    except (StoreError, AssertionError) as error:
        problem = f"the build failed: {error!r}"
    met = both.of(server).met
    both.rest()
    return Row(server, fault, nth, met[0] if met else "", problem or examine(store))


def requests_of_a_build(both: Proxies, folder: Path) -> dict[str, int]:
    """How many requests an undisturbed build makes."""
    store = prepare(both, folder)
    build(store, folder)
    return {"lakefs": both.lakefs.requests, "s3": both.s3.requests}


def sweep(every: int = 1) -> tuple[list[Row], list[dict[str, Any]]]:
    """Every fault at every request (or at each n-th, from another one for each fault); rows, and a table."""
    rows: list[Row] = []
    table: list[dict[str, Any]] = []
    with proxies() as both, tempfile.TemporaryDirectory() as root:
        first = Path(root) / "undisturbed"
        first.mkdir()
        for server, count in requests_of_a_build(both, first).items():
            for number, fault in enumerate(FAULTS):
                mine = []
                for nth in range(1 + number % every, count + 1, every):
                    folder = Path(root) / f"{server}-{fault}-{nth}".replace(" ", "-")
                    folder.mkdir()
                    mine.append(inject(both, folder, server, fault, nth))
                problems = sum(bool(row.problem) for row in mine)
                table.append({"server": server, "fault": fault, "faults": len(mine), "problems": problems})
                print(f"{server:<7} {fault:<12} {len(mine):4} faults  {problems} problems", flush=True)
                rows += mine
    return rows, table
