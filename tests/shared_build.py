"""One whole build of the test site for all processes of a test run: the site is served by the process that began it."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from tests.end_to_end.harness import STAMP, Home
from tests.end_to_end.site import make_site, serve

SITE = "headwater_site"
Site = tuple[str, int]
"""(folder, port) as a worker of pytest-xdist is told of them."""
SERVED = pytest.StashKey[Site]()


@dataclass(frozen=True)
class Built:
    """A finished build: its home, the site behind it, and what the command said."""

    home: Home
    site: Path
    summary: dict[str, Any]


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """pytest-xdist, before it starts a worker: all of them crawl one site, whose port is in every address."""
    config: pytest.Config = node.config
    if SERVED not in config.stash:
        stack = ExitStack()
        config.add_cleanup(stack.close)
        root, port = stack.enter_context(_new_site())
        config.stash[SERVED] = (str(root), port)
    node.workerinput[SITE] = config.stash[SERVED]


@contextmanager
def _new_site() -> Iterator[tuple[Path, int]]:
    with tempfile.TemporaryDirectory(prefix="site-") as folder:
        root = make_site(Path(folder) / "site")
        with serve(root) as port:
            yield root, port


@contextmanager
def the_site(config: pytest.Config) -> Iterator[tuple[Path, int]]:
    """The site of this test run: the one that the controller serves, or one of our own where there are no workers."""
    shared: Site | None = getattr(config, "workerinput", {}).get(SITE)
    if shared is None:
        with _new_site() as found:
            yield found
    else:
        yield Path(shared[0]), shared[1]


def built_once(site: Path, port: int, shared: Path, own: Path) -> Built:
    """A copy, in `own`, of the build that the first process to come here makes in `shared`."""
    said = shared / "summary.json"
    with FileLock(shared.with_suffix(".lock")):
        if not said.exists():
            shutil.rmtree(shared, ignore_errors=True)
            summary = Home.create(shared, port).json("run", "--recipe", "tiny", "--at", STAMP)
            said.write_text(json.dumps(summary), encoding="utf-8")
    return Built(Home(shared, port).copy(own), site, json.loads(said.read_text(encoding="utf-8")))
