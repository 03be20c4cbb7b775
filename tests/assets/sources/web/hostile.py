"""A server that breaks every rule, one path per case: raw sockets, so that it can lie about anything."""

from __future__ import annotations

import gzip
import socket
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial

import brotli
from backports import zstd

Answer = Callable[[socket.socket, str], None]

HTML = "Content-Type: text/html; charset=utf-8"
MEGABYTE = 1_000_000


def head(*lines: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode("latin-1")


def page(body: bytes, *lines: str) -> Answer:
    return lambda connection, _: connection.sendall(head(HTML, f"Content-Length: {len(body)}", *lines) + body)


def redirect(to: str) -> Answer:
    return lambda connection, _: connection.sendall(head(f"Location: {to}", "Content-Length: 0", status="302 Found"))


@cache
def bomb(coding: str) -> bytes:
    """100 MB of zeros, packed by each coding of a Content-Encoding."""
    body = bytes(100 * MEGABYTE)
    for name in coding.split(", "):
        body = PACKERS[name](body)
    return body


def packed(coding: str) -> Answer:
    return lambda connection, path: page(bomb(coding), f"Content-Encoding: {coding}")(connection, path)


def _chunks(connection: socket.socket, piece: bytes, times: int | None, pause_s: float = 0.0) -> None:
    connection.sendall(head(HTML, "Transfer-Encoding: chunked"))
    sent = 0
    while times is None or sent < times:
        connection.sendall(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        sent += 1
        time.sleep(pause_s)
    connection.sendall(b"0\r\n\r\n")


def _slowly(connection: socket.socket, text: bytes, pause_s: float = 0.2) -> None:
    for byte in text:
        connection.sendall(bytes([byte]))
        time.sleep(pause_s)


def _endless_headers(connection: socket.socket, _: str) -> None:
    connection.sendall(f"HTTP/1.1 200 OK\r\n{HTML}\r\n".encode())
    line = b"X-Again: " + b"a" * 1000 + b"\r\n"
    while True:
        connection.sendall(line)


def _next_redirect(connection: socket.socket, path: str) -> None:
    name, _, number = path.rpartition("-")
    redirect(f"{name}-{int(number) + 1}")(connection, path)


TEXT = b"<html><body><p>" + b"Half a page is worse than none. " * 20 + b"</p></body></html>"

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": partial(gzip.compress, compresslevel=1),
    "deflate": partial(zlib.compress, level=1),
    "br": partial(brotli.compress, quality=1),
    "zstd": zstd.compress,
}
BOMBS = {
    "/docs/bomb-gzip": "gzip",
    "/docs/bomb-deflate": "deflate",
    "/docs/bomb-br": "br",
    "/docs/bomb-zstd": "zstd",
    "/docs/bomb-nested": "gzip, gzip",
    "/docs/bomb-in-bomb": "gzip, gzip, gzip",
}

CASES: dict[str, Answer] = {
    "/docs/length-too-long": lambda c, _: c.sendall(head(HTML, "Content-Length: 5000") + TEXT),
    "/docs/closed-in-chunk": lambda c, _: c.sendall(head(HTML, "Transfer-Encoding: chunked") + b"400\r\n" + TEXT[:100]),
    "/docs/no-last-chunk": lambda c, _: c.sendall(head(HTML, "Transfer-Encoding: chunked") + b"a\r\n0123456789\r\n"),
    "/docs/closed-in-headers": lambda c, _: c.sendall(b"HTTP/1.1 200 OK\r\nContent-"),
    "/docs/no-answer": lambda c, _: None,
    "/docs/not-http": lambda c, _: c.sendall(b"SSH-2.0-OpenSSH_9.2\r\n" * 3),
    "/docs/endless-headers": _endless_headers,
    "/docs/loop-self": redirect("/docs/loop-self"),
    "/docs/loop-a": redirect("/docs/loop-b"),
    "/docs/loop-b": redirect("/docs/loop-c"),
    "/docs/loop-c": redirect("/docs/loop-a"),
    "/docs/chain-1": _next_redirect,
    "/docs/redirect-file": redirect("file:///etc/passwd"),
    "/docs/redirect-metadata": redirect("http://169.254.169.254/latest/meta-data/"),
    "/docs/gzip-cut": page(gzip.compress(TEXT)[:-9], "Content-Encoding: gzip"),
    "/docs/gzip-lie": page(TEXT, "Content-Encoding: gzip"),
    "/docs/coding-unknown": page(TEXT, "Content-Encoding: sdch"),
    **{path: packed(coding) for path, coding in BOMBS.items()},
    "/docs/bomb-members": page(gzip.compress(b"") * 100_000, "Content-Encoding: gzip"),
    "/docs/100-mb": lambda c, p: page(bytes(100 * MEGABYTE))(c, p),
    "/docs/100-mb-chunked": lambda c, _: _chunks(c, b"x" * MEGABYTE, 100),
    "/docs/endless": lambda c, _: _chunks(c, b"x" * 10_000, None),
    "/docs/slow-headers": lambda c, _: _slowly(c, head(HTML, "Content-Length: 5") + b"<p>hi"),
    "/docs/slow-body": lambda c, _: _chunks(c, b"x", None, 0.2),
    "/docs/nested-tags": page(b"<div><b>" * 500_000 + b"<p>deep</p>"),
    "/docs/many-links": page(b"".join(b"<a href='?%d'>x</a>" % n for n in range(100_000))),
    "/docs/length-too-short": lambda c, _: c.sendall(head(HTML, "Content-Length: 60") + TEXT),
}
"""Path -> answer. Each is reached by one link of the index."""

LINKS: dict[str, str] = {
    "dots": "../../etc/passwd",
    "escaped dots": "%2e%2e/%2e%2e/etc/passwd",
    "escaped slashes": "..%2f..%2fetc/passwd",
    "NUL": "a%00b.html",
    "raw NUL": "a\0b.html",
    "10^5 characters": "long/" + "x" * 100_000,
    "backslashes": "..\\..\\windows\\win.ini",
    "lone surrogate": "&#xD800;.html",
    "file:": "file:///etc/passwd",
    "decimal address": "http://2130706433/docs/",
    "IPv6 literal": "http://[::1]/docs/",
    "broken IPv6": "http://[::1/docs/",
    "credentials": "http://user:password@127.0.0.1/docs/",
    "metadata host": "http://169.254.169.254/latest/meta-data/",
    "bad port": "http://127.0.0.1:99999/",
}
"""What a page may link to lead a crawler astray."""


class Hostile:
    """A running server; `requests` counts paths."""

    def __init__(self, port: int, cases: tuple[str, ...], links: tuple[str, ...]) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.requests: Counter[str] = Counter()
        anchors = "".join(f'<a href="{target}">x</a>\n' for target in (*cases, *links, "/docs/fine"))
        self.index = page(f"<html><body>{anchors}</body></html>".encode())

    def answer(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            request = b""
            while b"\r\n\r\n" not in request:
                piece = connection.recv(65536)
                if not piece:
                    return
                request += piece
            path = request.split(b" ", 2)[1].decode("latin-1")
            self.requests[path] += 1
            self._answer_for(path)(connection, path)
            connection.shutdown(socket.SHUT_WR)

    def _answer_for(self, path: str) -> Answer:
        if path == "/docs/":
            return self.index
        if path == "/docs/fine":
            return page(TEXT)
        if path.startswith("/docs/chain-"):
            return _next_redirect
        missing: Answer = lambda c, _: c.sendall(head("Content-Length: 0", status="404 Not Found"))  # noqa: E731
        return CASES.get(path, missing)


@contextmanager
def serve_hostile(*cases: str, links: tuple[str, ...] = ()) -> Iterator[Hostile]:
    """Serve an index at /docs/ that links these cases, those links, and one page that is fine."""
    for path in cases:
        if path in BOMBS:
            bomb(BOMBS[path])  # before the clock of a request runs
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    server = Hostile(listener.getsockname()[1], cases, links)

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=server.answer, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield server
    finally:
        listener.close()
