"""The demo's pages are there for every crawl of them: by `run`, beside the UI, after another command ended."""

from __future__ import annotations

import http.client
import http.server
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from orchestration.cli.app import app
from orchestration.graph.unfinished import registered
from orchestration.identity.status import CRAWL
from orchestration.run.demo import obtained
from orchestration.run.demo_pages import DemoPages
from orchestration.run.demo_site import DemoError, DemoSite, PortBusyError, serves
from orchestration.run.driver import Driver, Options, RunFailedError, Step
from tests.histories.world import render
from tests.orchestration.nights import Nights

FIRST, SECOND = "20260101T000000Z", "20260102T000000Z"
BOOK = """
[book]
kind = "web"
licence = "CC0-1.0"
domain = "documentation"
format = "html"
start_urls = ["http://127.0.0.1:${HEADWATER_DEMO_PORT:-8765}/book/index.html"]
delay_s = 0
retries = 0
allow_private_hosts = true
"""


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        found: int = probe.getsockname()[1]
    monkeypatch.setenv("HEADWATER_DEMO_PORT", str(found))
    return found


@pytest.fixture
def nights(tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> Nights:
    """Text files, and a book on the demo's site that was not fetched yet."""
    nights = Nights.create(tmp_path, monkeypatch, "alpha")
    with (tmp_path / "config/sources.toml").open("a", encoding="utf-8") as sources:
        sources.write(BOOK)
    nights.sources = ("alpha", "book")
    return nights


def fetch_demo(home: Path, pages: int = 3) -> Path:
    """What `make demo` leaves in a home, with a small book of our own."""
    www = home / "demo/www"
    (www / "book").mkdir(parents=True)
    for page in range(pages):
        (www / f"book/{page}.html").write_bytes(render(f"en {50 + page}", "html"))
    links = "".join(f'<a href="{page}.html">{page}</a>' for page in range(pages))
    (www / "book/index.html").write_text(f"<title>Book</title><p>{links}", encoding="utf-8")
    (home / "demo/obtained.json").write_text(json.dumps({"layout": 1, "packages": {}}), encoding="utf-8")
    assert obtained(home) == www
    return www


def sources(*urls: str) -> dict[str, dict[str, Any]]:
    return {"book": {"kind": "web", "start_urls": list(urls)}, "files": {"kind": "files", "root": "stdlib:"}}


class Stranger(http.server.BaseHTTPRequestHandler):
    """Answers 501 to whatever is asked."""

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""


@contextmanager
def stranger(port: int) -> Iterator[None]:
    """A web server of somebody else, which knows no page."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Stranger)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield
    server.shutdown()
    thread.join()
    server.server_close()


def status_of(port: int, path: str = "/book/index.html") -> int | None:
    """What a crawler gets there; None where nobody listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except ConnectionError:
        return None
    finally:
        connection.close()


def wait_until_served(port: int) -> None:
    end = time.monotonic() + 10
    while status_of(port) != 200:
        assert time.monotonic() < end, "nobody took over"
        time.sleep(0.05)


def test_a_crawl_has_its_pages_or_is_not_begun(nights: Nights, port: int) -> None:
    step = Step("crawl_job", f"book@{FIRST}", (CRAWL,))
    driver = Driver(nights.workplace, Options("tiny"))
    with driver.exclusive():
        assert not driver.attempt(step)
        assert registered(nights.workplace, "crawl") == []
        fetch_demo(nights.folder / "state")
        assert driver.attempt(step)
        assert status_of(port) == 200
    assert status_of(port) is None, "served only while something runs"
    with pytest.raises(RunFailedError, match=r"pages of book .*`make demo` fetches and serves them"):
        driver.raise_failures()
    assert nights.catalog().partitions(CRAWL) == [f"book@{FIRST}"]


@pytest.mark.slow
def test_a_recrawl_finds_the_edited_page_and_leaves_nothing_to_do(
    nights: Nights, port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    page = fetch_demo(nights.folder / "state") / "book/1.html"
    nights.run(at=FIRST)
    before = nights.documents()
    page.write_bytes(render("en 99", "html"))
    planned = CliRunner().invoke(app, ["plan", "--recipe", "tiny", "--no-train", "--recrawl", "book"]).output
    assert f"book: `headwater run` serves {page.parent.parent} on http://127.0.0.1:{port}." in planned
    capsys.readouterr()
    nights.run("book", at=SECOND)
    assert f"Serving the demo's pages on http://127.0.0.1:{port}" in capsys.readouterr().err
    assert nights.documents() == before == {"alpha": 6, "book": 3}
    rows = nights.catalog().manifests["extracted_documents", f"book@{SECOND}"]["rows"]
    assert sum(rows.values()) == 1, "the edited page alone is read again"
    assert nights.status().needing() == []
    planned = CliRunner().invoke(app, ["plan", "--recipe", "tiny", "--no-train"]).output
    assert planned == "Everything is up to date: `headwater run` would do nothing.\n"


@pytest.mark.slow
def test_without_the_demo_a_run_names_make_demo_and_builds_the_rest(nights: Nights) -> None:
    with pytest.raises(DemoError, match=r"nothing answers on .* pages of book .*`make demo` fetches and serves them"):
        nights.run("book", at=FIRST)
    assert nights.catalog().manifests == {}, "asked for by name, it ends at once"
    with pytest.raises(RunFailedError, match="`make demo`"):
        nights.run(at=FIRST)
    assert nights.documents() == {"alpha": 6, "book": 0}
    assert registered(nights.workplace, "crawl") == [f"alpha@{FIRST}"], "no crawl is begun that cannot be made"
    fetch_demo(nights.folder / "state")
    nights.run(at=SECOND)
    assert nights.documents() == {"alpha": 6, "book": 3}


def test_a_stranger_on_the_port_is_named_and_never_crawled(nights: Nights, port: int) -> None:
    fetch_demo(nights.folder / "state")
    with stranger(port):
        with pytest.raises(PortBusyError, match=rf"port {port} .*\(book\).* in use by .*End that and try again"):
            nights.run("book", at=FIRST)
        planned = CliRunner().invoke(app, ["plan", "--recipe", "tiny", "--no-train", "--json"]).output
    assert json.loads(planned)["outlook"].startswith(f"port {port} on 127.0.0.1")
    assert registered(nights.workplace, "crawl") == []


def test_a_server_of_ones_own_on_that_port_is_left_alone(tmp_path: Path, port: int) -> None:
    own = sources(f"http://127.0.0.1:{port}/wiki/index.html")
    with stranger(port), DemoPages(tmp_path, own) as pages:
        pages.require("book")  # the demo was never fetched
        fetch_demo(tmp_path)
        pages.require("book")  # it was, and has no such folder
        assert pages.outlook(["book", "files"]) is None


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9/book/", "http://example.org/book/", "https://127.0.0.1:PORT/book/"]
)
def test_other_sources_open_no_port(tmp_path: Path, port: int, url: str) -> None:
    fetch_demo(tmp_path)
    said: list[str] = []
    with DemoPages(tmp_path, sources(url.replace("PORT", str(port))), said.append) as pages:
        pages.require("book")
        pages.require("files")
        pages.serve_all()
        assert (said, status_of(port)) == ([], None)


def test_when_one_command_ends_the_other_goes_on_serving(tmp_path: Path, port: int) -> None:
    fetch_demo(tmp_path)
    book = sources(f"http://localhost:{port}/book/index.html")
    said: list[str] = []
    with DemoPages(tmp_path, book, said.append) as second:
        with DemoPages(tmp_path, book) as first:
            first.require("book")
            second.require("book")
            assert second.outlook(["book"]) == f"book: served on http://127.0.0.1:{port} already."
            assert said == []
        wait_until_served(port)
    assert status_of(port) is None


def test_the_ui_serves_them_as_soon_as_they_are_fetched(tmp_path: Path, port: int) -> None:
    said: list[str] = []
    with DemoPages(tmp_path, sources(f"http://127.0.0.1:{port}/book/index.html"), said.append) as pages:
        pages.serve_all()
        assert "Crawls of book would fail: nothing answers" in said[0]
        assert "`make demo`" in said[0]
        fetch_demo(tmp_path)
        wait_until_served(port)


def test_the_ui_starts_beside_a_stranger_and_serves_when_he_is_gone(tmp_path: Path, port: int) -> None:
    fetch_demo(tmp_path)
    said: list[str] = []
    with DemoPages(tmp_path, sources(f"http://127.0.0.1:{port}/book/index.html"), said.append) as pages:
        with stranger(port):
            pages.serve_all()
            assert f"Crawls of book would fail: port {port}" in said[0]
        wait_until_served(port)


def test_headwater_ui_has_the_pages_while_it_is_open(
    nights: Nights, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch_demo(nights.folder / "state")
    seen: list[int | None] = []
    monkeypatch.setattr("orchestration.graph.ui.server.run_ui", lambda *_: seen.append(status_of(port)))
    monkeypatch.setattr("os.chdir", lambda _: None)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        ui_port = probe.getsockname()[1]
    said = CliRunner().invoke(app, ["ui", "--port", str(ui_port)]).output
    assert (seen, status_of(port)) == ([200], None)
    assert f"served on http://127.0.0.1:{port}, for crawls of book" in said


def test_only_the_same_folder_is_the_same_site(tmp_path: Path, port: int) -> None:
    mine, other = fetch_demo(tmp_path / "mine"), fetch_demo(tmp_path / "other")
    with DemoSite(mine, port):
        assert serves(mine, port)
        assert not serves(other, port), "the pages of another home may have been edited"
    assert not serves(mine, port)
    with stranger(port):
        assert not serves(mine, port)
