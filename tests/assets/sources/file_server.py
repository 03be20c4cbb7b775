"""A small HTTP server with byte ranges and a CDX index, which can be told to misbehave."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, urlsplit


@dataclass
class FileServer:
    """Serves a folder. `cdx` are the index lines; `failures` is consumed one per request: a status, or `cut`."""

    root: Path
    cdx: list[str] = field(default_factory=list)
    failures: list[int | str] = field(default_factory=list)
    ranges: bool = True
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    signed_in: set[str | None] = field(default_factory=set)
    """What came as Authorization."""
    url: str = ""


@contextmanager
def serve(server: FileServer) -> Iterator[FileServer]:
    """The server on loopback while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Silent."""

        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            server.requests.append((self.path, wanted))
            server.signed_in.add(self.headers.get("Authorization"))
            failure = server.failures.pop(0) if server.failures else None
            if isinstance(failure, int):
                self._answer(failure, b"")
                return
            parts = urlsplit(self.path)
            if parts.path == "/index":
                self._answer(200, _cdx(server, parse_qs(parts.query)))
                return
            path = server.root / parts.path.lstrip("/")
            if not path.is_file():
                self._answer(404, b"")
                return
            content, status = path.read_bytes(), 200
            if wanted and server.ranges:
                start, _, end = wanted.removeprefix("bytes=").partition("-")
                content, status = content[int(start) : int(end) + 1 if end else None], 206
            self._answer(status, content, cut=failure == "cut")

        def _answer(self, status: int, content: bytes, cut: bool = False) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", '"one"')
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if cut else content)
            if cut:
                self.close_connection = True

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{http.server_port}"
    thread = Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


def _cdx(server: FileServer, query: dict[str, list[str]]) -> bytes:
    """As pywb answers: two lines a page."""
    if query.get("showNumPages"):
        return json.dumps({"pages": -(-len(server.cdx) // 2), "pageSize": 2, "blocks": 1}).encode()
    page = int(query["page"][0])
    return "".join(f"{line}\n" for line in server.cdx[2 * page : 2 * page + 2]).encode()
