"""The Dagster UI that `headwater ui` serves, and a person before it: Debian's Chromium, led by playwright."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import psutil
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, ViewportSize, expect, sync_playwright

from tests.end_to_end.harness import Home

SHOWN_MS = 60_000
"""How long a text may take to appear: a run that is launched loads its code in a process of its own."""
STARTS_S = 180.0
BLOCKED = "code@20260102T000000Z"
"""A crawl that a check blocks: conftest.py makes it."""
DAGSTERS_EDGE = "orchestration/graph/definitions.py"
WINDOW: ViewportSize = {"width": 1600, "height": 1200}
NO_OTHER_HOST = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's browser, without a window; skips the test where it is missing."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("no chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        # Chromium's own sandbox refuses to run as root, as it does in a container.
        as_root = ["--no-sandbox", "--disable-dev-shm-usage"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=program, args=[NO_OTHER_HOST, *as_root])
        yield browser
        browser.close()


@contextmanager
def ui_of(home: Home) -> Iterator[str]:
    """`headwater ui` on a free port, from its start to Ctrl+C; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = home.root / "ui.log"
    with log.open("w") as output:
        process = home.popen("ui", "--port", str(port), stdout=output, stderr=output, start_new_session=True)
    try:
        _wait_until_loaded(process, port, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        started = [*psutil.Process(process.pid).children(recursive=True)] if process.poll() is None else []
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
        for child in psutil.wait_procs(started, timeout=10)[1]:
            child.kill()


def _wait_until_loaded(process: subprocess.Popen[str], port: int, log: Path) -> None:
    """Until the web server answers, with our assets."""
    deadline = time.monotonic() + STARTS_S
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, f"the UI did not come up:\n{log.read_text()}"
        try:
            if ask(f"http://127.0.0.1:{port}", "{ assetNodes { id } }")["assetNodes"]:
                return
        except OSError:
            pass
        time.sleep(0.5)


def ask(url: str, query: str) -> Any:
    """What the UI's GraphQL answers to a query."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    connection.request("POST", "/graphql", json.dumps({"query": query}), {"Content-Type": "application/json"})
    answer = json.loads(connection.getresponse().read())
    assert "errors" not in answer, answer
    return answer["data"]


@dataclass
class Visitor:
    """One browser window on one UI: it goes nowhere else, and hears what the pages' scripts complain of."""

    page: Page
    url: str
    pictures: Path
    complaints: list[str] = field(default_factory=list)
    """Errors in the browser's console, and exceptions of the pages' scripts."""
    strangers: list[str] = field(default_factory=list)
    """Addresses outside this UI that a page asked for: none can be reached (NO_OTHER_HOST)."""

    def __post_init__(self) -> None:
        self.page.set_default_timeout(SHOWN_MS)
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(f"{self.page.url}: {error}"))
        self.page.on("request", lambda request: self._note(request.url))
        self.page.on("websocket", lambda socket: self._note(socket.url))

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.complaints.append(f"{self.page.url}: {message.text}")

    def _note(self, address: str) -> None:
        found = urlsplit(address)
        if found.scheme not in ("data", "blob") and found.netloc != urlsplit(self.url).netloc:
            self.strangers.append(address)

    def opens(self, path: str) -> None:
        """Go to a page of the UI."""
        self.page.goto(f"{self.url}{path}")

    def opens_asset(self, asset: str, view: str = "overview", partition: str | None = None) -> None:
        """Go to one view of an asset's page."""
        self.opens(f"/assets/{asset}?view={view}" + (f"&partition={quote(partition)}" if partition else ""))

    def text(self, words: str | re.Pattern[str]) -> Locator:
        """The first visible place with these words."""
        return self.page.get_by_text(words).locator("visible=true").first

    def sees(self, *words: str | re.Pattern[str], within_ms: float = SHOWN_MS) -> None:
        """Each of the words is on the page, soon."""
        for each in words:
            expect(self.text(each), f"{each!r} on {self.page.url}").to_be_visible(timeout=within_ms)

    def clicks(self, words: str) -> None:
        """Press the button with this label (its accessible name begins with that of its icon)."""
        name = re.compile(f"(?:^| ){re.escape(words)}$")
        self.page.get_by_role("button", name=name).locator("visible=true").first.click()

    def keeps(self, name: str) -> None:
        """A picture of the page as it is now."""
        self.pictures.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=self.pictures / f"{name}.png")

    def location(self) -> str:
        """The name of the code location, which is in the address of each job and sensor."""
        found = ask(self.url, "{ workspaceOrError { ... on Workspace { locationEntries { name } } } }")
        (entry,) = found["workspaceOrError"]["locationEntries"]
        return entry["name"]

    def launches(self, asset: str, partition: str) -> None:
        """Materialise one partition of an asset, by its own button, and go to the run's page."""
        self.opens_asset(asset, "events")
        self.clicks("Materialize…")
        self.text("Select a partition or create one").click()
        self.page.get_by_text(partition, exact=True).locator("visible=true").last.click()
        self.page.keyboard.press("Escape")
        self.clicks("Launch 1 run")
        self.page.locator('.bp5-toast a[href^="/runs/"], [class*=oast] a[href^="/runs/"]').first.click()

    def frames_of_ours(self) -> set[str]:
        """Our files in what a run's page says of its errors. Dagster ends each message with the way it took to us,
        folded away; what went on inside of us is no part of it.
        """
        return set(
            re.findall(
                r'File "(?!\S*/site-packages/)\S*?/((?:assets|orchestration|quality|training)/\S+)"',
                self.page.inner_text("body"),
            )
        )
