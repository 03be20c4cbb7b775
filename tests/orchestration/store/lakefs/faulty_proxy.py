"""A proxy that makes the n-th request to a server fail, in one of the ways in which servers and networks fail."""

from __future__ import annotations

import http.client
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

FAULTS = {
    "500": "answers 500; the request is not carried out",
    "503 done": "carries the request out, then answers 503",
    "429": "answers 429 with Retry-After",
    "no answer": "never answers; the request is not carried out",
    "lost answer": "carries the request out, then closes the connection without an answer",
    "late answer": "carries the request out, then never answers",
    "cut": "sends half of the answer's body and closes the connection",
    "short": "declares and sends only half of the answer's body",
}
HANG_S = 3.0  # longer than the client's patience with a silent server
_HOP = {"connection", "transfer-encoding", "keep-alive", "content-length"}


class FaultyProxy:
    """Stands before one server. `arm(fault, nth)`: the nth request from now on (1 = the next) meets the fault."""

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self.host, self.port = parts.hostname or "", parts.port or 80
        self.lock = threading.Lock()
        self.requests = 0
        self.fault, self.nth, self.every = "", 0, 0
        self.met: list[str] = []
        self.seen: list[str] = []
        handler = type("ProxyHandler", (_Handler,), {"proxy": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def arm(self, fault: str, nth: int, every: int = 0) -> None:
        """The nth request from now on fails, and with `every` each one that many requests later too."""
        with self.lock:
            self.requests, self.fault, self.nth, self.every = 0, fault, nth, every
            self.met, self.seen = [], []

    def fault_of(self, what: str) -> str:
        """Count a request; the fault it meets, or nothing."""
        with self.lock:
            self.requests += 1
            self.seen.append(what)
            beyond = self.requests - self.nth
            if self.fault and (beyond == 0 or (self.every and beyond > 0 and beyond % self.every == 0)):
                self.met.append(what)
                return self.fault
            return ""

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that lost patience has gone: that is what these tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: FaultyProxy

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(6, 1, 1)  # TCP_NODELAY

    def _answer(self) -> None:
        body = self._body()
        fault = self.proxy.fault_of(f"{self.command} {self.path.partition('?')[0]}")
        if fault in ("500", "429"):
            return self._send(int(fault), [("Retry-After", "0.05")] if fault == "429" else [], b"{}")
        if fault == "no answer":
            return self._hang_up(HANG_S)
        status, headers, content = self._forward(body)
        if fault == "503 done":
            return self._send(503, [], b"{}")
        if fault in ("lost answer", "late answer"):
            return self._hang_up(HANG_S if fault == "late answer" else 0.0)
        if fault == "cut":
            self._send(status, headers, content, sent=len(content) // 2)
            return self._hang_up(0.0)
        if fault == "short":
            return self._send(status, headers, content[: len(content) // 2])
        return self._send(status, headers, content)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _answer

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            if self.headers.get("Expect") == "100-continue":
                self.send_response_only(100)
                self.end_headers()
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def handle_expect_100(self) -> bool:
        return True

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self.proxy.host, self.proxy.port, timeout=60)
        try:
            headers = {k: v for k, v in self.headers.items() if k.lower() not in (*_HOP, "expect")}
            connection.request(self.command, self.path, body or None, {**headers, "Content-Length": str(len(body))})
            answer = connection.getresponse()
            kept = [(k, v) for k, v in answer.getheaders() if k.lower() not in _HOP or self.command == "HEAD"]
            return answer.status, kept, answer.read()
        finally:
            connection.close()

    def _send(self, status: int, headers: list[tuple[str, str]], content: bytes, sent: int | None = None) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        if self.command != "HEAD" and status not in (204, 304):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD" and status not in (204, 304):
            self.wfile.write(content[:sent])

    def _hang_up(self, after_s: float) -> None:
        time.sleep(after_s)
        self.close_connection = True
