"""The demo's pages for whatever crawls them: `headwater run`, and the UI with its schedules.

    with DemoPages(home, config.sources) as pages:
        pages.require("debian-handbook")      # served from here on, or a DemoError that says why not

A source is the demo's by its URLs: they are on the demo's port, and in the folder that is served there. Several
commands of one home may be at work at once: the first one serves, the others take over when it ends.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from orchestration.process.terminal import listed
from orchestration.run.demo import obtained
from orchestration.run.demo_site import (
    HOST,
    DemoError,
    DemoSite,
    PortBusyError,
    demo_port,
    is_free,
    listener,
    listens,
    serves,
)

_TAKE_OVER_S = 0.5  # less than the crawler waits before it asks a broken connection again
_HOSTS = (HOST, "localhost")


class DemoPages:
    """Who serves the demo's pages while the block lasts; nothing is served before they are asked for."""

    def __init__(
        self, home: Path, sources: Mapping[str, Mapping[str, Any]], say: Callable[[str], None] = lambda words: None
    ) -> None:
        self._home, self._sources, self._say = home, sources, say
        self._site: DemoSite | None = None
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._keeper: threading.Thread | None = None

    def __enter__(self) -> DemoPages:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._keeper:
            self._keeper.join()
        if self._site:
            self._site.__exit__()

    def require(self, source: str) -> None:
        """Have the pages of a source served, if they are the demo's. Raises DemoError: nothing is begun then."""
        if self._is_here(source):
            if self._serve([source]):
                self._say(f"Serving the demo's pages on {_address()} while they are crawled.")
            self._keep()

    def serve_all(self) -> None:
        """The same for all sources, for crawls that are asked for later; what is in the way is said, and tried again."""
        here = [source for source in self._sources if self._is_here(source)]
        if not here:
            return
        try:
            self._serve(here)
            self._say(f"The demo's pages are served on {_address()}, for crawls of {listed(here)}.")
        except DemoError as error:
            self._say(f"Crawls of {listed(here)} would fail: {error}")
        self._keep()

    def outlook(self, sources: Sequence[str]) -> str | None:
        """Who would serve the pages of those that are the demo's, or what is in the way; None where none is."""
        here = [source for source in sources if self._is_here(source)]
        if not here:
            return None
        root, port = obtained(self._home), demo_port()
        if not listens(port):
            return f"{listed(here)}: `headwater run` serves {root} on {_address()}." if root else _never_fetched(here)
        return (
            _stranger(here) if root and not serves(root, port) else f"{listed(here)}: served on {_address()} already."
        )

    def _is_here(self, source: str) -> bool:
        """By the addresses. While the demo was never fetched, anything on its port may be meant."""
        for url in self._sources[source].get("start_urls") or ():
            parts = urlsplit(str(url))
            if parts.scheme == "http" and parts.hostname in _HOSTS and parts.port == demo_port():
                root = obtained(self._home)
                first = unquote(parts.path).strip("/").partition("/")[0]
                if root is None or first in ("", *(child.name for child in root.iterdir())):
                    return True
        return False

    def _serve(self, wanted: Sequence[str]) -> bool:
        """Whether this process has begun to; False when the pages are served already. Raises DemoError."""
        with self._lock:
            if self._site or self._ended.is_set():
                return False
            root, port = obtained(self._home), demo_port()
            if root is None:
                if listens(port):  # a site of the user's own
                    return False
                raise DemoError(_never_fetched(wanted))
            site = DemoSite(root, port)
            try:
                site.__enter__()
            except PortBusyError:
                if serves(root, port):
                    return False
                raise PortBusyError(_stranger(wanted)) from None
            self._site = site
            return True

    def _keep(self) -> None:
        if self._keeper is None:
            self._keeper = threading.Thread(target=self._take_over, name="demo-pages", daemon=True)
            self._keeper.start()

    def _take_over(self) -> None:
        """Serve as soon as the pages are there and the port is free: whoever served them may end before this process."""
        while self._site is None and not self._ended.wait(_TAKE_OVER_S):
            if obtained(self._home) and is_free(demo_port()):  # nobody is bothered by our looking
                with contextlib.suppress(DemoError):
                    self._serve(())


def _address() -> str:
    return f"http://{HOST}:{demo_port()}"


def _never_fetched(wanted: Sequence[str]) -> str:
    return (
        f"nothing answers on {_address()}, where the pages of {listed(wanted)} are. If they are the demo's, `make demo` "
        "fetches and serves them; if they are yours, start their server, or take the source out of sources.toml."
    )


def _stranger(wanted: Sequence[str]) -> str:
    port = demo_port()
    return (
        f"port {port} on {HOST}, where the demo's pages ({listed(wanted)}) must be served, is in use{listener(port)}. "
        "End that and try again: on another HEADWATER_DEMO_PORT every page would have a new address."
    )
