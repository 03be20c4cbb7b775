"""A small site of our own with every trap a crawler meets, served on a free port."""

from __future__ import annotations

import gzip
import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Page:
    """One path: what it answers."""

    body: bytes = b""
    status: int = 200
    content_type: str | None = "text/html; charset=utf-8"
    headers: dict[str, str] = field(default_factory=dict)
    declared_length: int | None = None  # a lying Content-Length
    fails_first: int = 0  # requests answered 503 before the page comes
    retry_after: Callable[[], str] | None = None  # of those answers
    latency_s: float = 0.0


def html(title: str, *links: str, head: str = "", text: str = "") -> bytes:
    anchors = "".join(f'<a href="{link}">{link}</a> ' for link in links)
    return f"<html><head><title>{title}</title>{head}</head><body><p>{text}</p>{anchors}</body></html>".encode()


def build_site() -> dict[str, Page]:
    """Pages in three languages below /docs/, and one example of everything that goes wrong."""
    index = html(
        "Index",
        *("zh/", "en/", "fr/", "missing.html", "gone.html", "moved.html", "elsewhere.html", "logo.png", "data.bin"),
        *("huge.html", "private/secret.html", "empty.html", "cut.html", "flaky.html", "broken.html", "notes.txt"),
        *("noai-header.html", "noai-meta.html", "tdm.html", "usage.html", "closed/page.html", "gb.html", "gzip.html"),
        *("http://127.0.0.1:9/other", "mailto:a@b.c", "javascript:void(0)", "/outside/page.html", "index.html#top"),
        *("copy.html", "foreign.html", "bomb.html"),
        text="欢迎 welcome bienvenue",
    )
    zh_index = html("中文", "一.html", "二.html?b=2&a=1", "../index.html", text="源流把网页变成语料。")
    return {
        "/robots.txt": Page(
            b"User-agent: *\nDisallow: /docs/private/\nContent-Signal: /docs/closed/ search=yes, ai-train=no\n",
            content_type="text/plain",
        ),
        "/docs/index.html": Page(index, headers={"Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT", "ETag": '"v1"'}),
        "/docs/zh/": Page(zh_index),
        "/docs/zh/%E4%B8%80.html": Page(html("一", "二.html?a=1&b=2", text="第一章")),
        "/docs/zh/%E4%BA%8C.html?b=2&a=1": Page(html("二", text="第二章")),
        "/docs/zh/%E4%BA%8C.html?a=1&b=2": Page(html("二", text="第二章")),
        "/docs/en/": Page(html("English", "deep/one.html", "../zh/", text="Headwater turns pages into a corpus.")),
        "/docs/en/deep/one.html": Page(html("One", "two.html", text="depth two")),
        "/docs/en/deep/two.html": Page(html("Two", "three.html", text="depth three")),
        "/docs/en/deep/three.html": Page(html("Three", text="depth four")),
        "/docs/fr/": Page(html("Français", text="La source du fleuve.")),
        "/docs/gone.html": Page(status=410),
        "/docs/moved.html": Page(status=301, headers={"Location": "/docs/arrived.html"}),
        "/docs/arrived.html": Page(html("Arrived", text="after a redirect")),
        "/docs/elsewhere.html": Page(status=302, headers={"Location": "http://127.0.0.1:9/"}),
        "/docs/logo.png": Page(b"\x89PNG" + bytes(5000), content_type="image/png"),
        "/docs/data.bin": Page(b"\x00" * 100, content_type=None),
        "/docs/huge.html": Page(html("Huge", text="x" * 60_000)),
        "/docs/bomb.html": Page(gzip.compress(html("Bomb", text="x" * 90_000)), headers={"Content-Encoding": "gzip"}),
        "/docs/empty.html": Page(),
        "/docs/cut.html": Page(html("Cut", text="half a page"), declared_length=5000),
        "/docs/flaky.html": Page(html("Flaky", text="up again"), fails_first=1),
        "/docs/broken.html": Page(b"error", status=500),
        "/docs/notes.txt": Page("纯文本 plain text\n".encode(), content_type="text/plain; charset=utf-8"),
        "/docs/noai-header.html": Page(html("No"), headers={"X-Robots-Tag": "noai, noimageai"}),
        "/docs/noai-meta.html": Page(html("No", head='<meta name="robots" content="index, noai">')),
        "/docs/tdm.html": Page(html("No"), headers={"TDM-Reservation": "1"}),
        "/docs/usage.html": Page(html("No"), headers={"Content-Usage": "train-ai=n"}),
        "/docs/closed/page.html": Page(html("Closed to training")),
        "/docs/private/secret.html": Page(html("Secret")),
        "/docs/gb.html": Page(
            '<html><head><meta charset="gb18030"></head><body>汉字 <a href="zh/一.html">一</a></body></html>'.encode(
                "gb18030"
            ),
            content_type="text/html",
        ),
        "/docs/gzip.html": Page(gzip.compress(html("Packed", text="packed")), headers={"Content-Encoding": "gzip"}),
        "/docs/copy.html": Page(html("Copy", head='<link rel="canonical" href="fr/">', text="La source.")),
        "/docs/foreign.html": Page(html("Own", head='<link rel="canonical" href="https://other.example/x.html">')),
        "/outside/page.html": Page(html("Outside")),
    }


def _not_modified(page: Page, asked: Message) -> bool:
    """As RFC 9110 orders it: If-None-Match decides alone when it is there."""
    if "If-None-Match" in asked:
        return asked["If-None-Match"] == page.headers.get("ETag")
    return "If-Modified-Since" in asked and asked["If-Modified-Since"] == page.headers.get("Last-Modified")


class Site:
    """A running server. `pages` may be edited between crawls; `requests` counts what was asked for."""

    def __init__(self, pages: dict[str, Page], jitter_s: float = 0.0) -> None:
        self.pages, self.jitter_s = pages, jitter_s
        self.requests: Counter[str] = Counter()
        self.agents: set[str] = set()
        self.sent: dict[str, list[tuple[str, str]]] = {}  # headers of the last request for each path
        self.times: list[tuple[float, str]] = []
        self.url = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = handler.path
        self.requests[path] += 1
        self.times.append((time.monotonic(), path))
        self.agents.add(handler.headers["User-Agent"])
        self.sent[path] = handler.headers.items()
        if self.jitter_s:  # another order of arrival for each jitter, without a random choice
            time.sleep(self.jitter_s * hashlib.md5(f"{self.jitter_s}{path}".encode()).digest()[0] / 255)
        page = self.pages.get(path, Page(b"not here", status=404))
        if self.requests[path] <= page.fails_first:
            page = Page(b"busy", status=503, headers={"Retry-After": page.retry_after()} if page.retry_after else {})
        time.sleep(page.latency_s)
        if page.status == 200 and _not_modified(page, handler.headers):
            page = Page(status=304, content_type=None, headers=page.headers)
        handler.send_response(page.status)
        if page.content_type:
            handler.send_header("Content-Type", page.content_type)
        for name, value in page.headers.items():
            handler.send_header(name, value)
        length = len(page.body) if page.declared_length is None else page.declared_length
        if page.status != 304:
            handler.send_header("Content-Length", str(length))
        handler.end_headers()
        handler.wfile.write(page.body)


@contextmanager
def serve(pages: dict[str, Page], jitter_s: float = 0.0) -> Iterator[Site]:
    """Serve pages on a free port of 127.0.0.1 until the block ends."""
    site = Site(pages, jitter_s)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.answer(self)

        def log_message(self, *_: object) -> None: ...

    class Server(ThreadingHTTPServer):
        request_queue_size = 128  # the default of 5 drops connections of a concurrent crawler: a second each

    server = Server(("127.0.0.1", 0), Handler)
    site.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
