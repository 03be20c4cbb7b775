"""A small web site on localhost: HTML files of a folder, correct conditional requests, nothing else.

Serves `<root>/<site>/...` as `/<site>/...`. `/<site>/` is an index page that links every tree of that
site, so that one start URL reaches all of it. Only what a crawler needs: no other file types, no writing.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import html
import http.client
import os
import socket
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from assets.errors import HeadwaterError

HOST = "127.0.0.1"
DEFAULT_PORT = 8765
PORT_VARIABLE = "HEADWATER_DEMO_PORT"
_WHOSE = "/.well-known/headwater-demo"
_ANSWER_S = 2.0  # a server that takes longer to say that it is ours is not
ROBOTS = b"User-agent: *\nAllow: /\n"


class DemoError(HeadwaterError):
    """The demo's sources cannot be had or served. The message says cause and remedy."""


class PortBusyError(DemoError):
    """Another process listens on the port."""


def demo_port(environ: Mapping[str, str] = os.environ) -> int:
    """HEADWATER_DEMO_PORT, or 8765. Raises DemoError for anything but a port number."""
    text = environ.get(PORT_VARIABLE, "").strip() or str(DEFAULT_PORT)
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65535:
        raise DemoError(f"{PORT_VARIABLE} must be a port number from 1 to 65535, found {text!r}.")
    return int(text)


def refuse_busy_port(port: int, remedy: str) -> None:
    """Raise PortBusyError when `port` is taken on localhost; `remedy` is the command that picks another."""
    try:
        _bind(port)
    except OSError as error:
        raise _port_error(port, error, remedy) from None


def is_free(port: int) -> bool:
    """Whether this process could listen there; asks nobody who does."""
    try:
        _bind(port)
    except OSError:
        return False
    return True


def _bind(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((HOST, port))


def listens(port: int) -> bool:
    """Whether anybody does on localhost, at `port`."""
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=_ANSWER_S):
        return True
    return False


def serves(root: Path, port: int) -> bool:
    """Whether what listens on `port` is a DemoSite of this very folder, in this process or another one."""
    connection = http.client.HTTPConnection(HOST, port, timeout=_ANSWER_S)
    try:
        connection.request("GET", _WHOSE)
        answer = connection.getresponse()
        return answer.status == HTTPStatus.OK and answer.read(1000) == _signature(root.resolve())
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _signature(root: Path) -> bytes:
    """Names a folder of this machine without telling where it is."""
    return hashlib.sha256(str(root).encode(errors="surrogateescape")).hexdigest().encode()


def _port_error(port: int, error: OSError, remedy: str) -> DemoError:
    if error.errno == errno.EADDRINUSE:
        return PortBusyError(f"Port {port} on {HOST} is in use{listener(port)}. End that, or use another: {remedy}")
    if error.errno == errno.EACCES:
        return DemoError(f"Port {port} needs root (it is below 1024). Use another: {remedy}")
    return DemoError(f"Port {port} on {HOST} cannot be opened: {error}. Use another: {remedy}")


def listener(port: int) -> str:
    """` by NAME (process 123)` where this user may know, else nothing."""
    try:
        import psutil

        for connection in psutil.net_connections("tcp"):
            local_port = getattr(connection.laddr, "port", None)  # an empty tuple when not bound
            if connection.status == psutil.CONN_LISTEN and local_port == port and connection.pid:
                return f" by {psutil.Process(connection.pid).name()} (process {connection.pid})"
    except Exception:  # another user's process, or no /proc: the message does without
        return ""
    return ""


class DemoSite:
    """The site, for as long as the `with` block lasts. Port 0 picks a free one (tests)."""

    def __init__(self, root: Path, port: int = DEFAULT_PORT) -> None:
        self.root, self.port = root.resolve(), port
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """`http://127.0.0.1:PORT`, without a slash at the end."""
        return f"http://{HOST}:{self.port}"

    def __enter__(self) -> DemoSite:
        if not self.root.is_dir():
            raise DemoError(f"{self.root} is not a folder: nothing to serve.")
        try:
            self._server = _Server((HOST, self.port), _handler(self.root))
        except OSError as error:
            raise _port_error(self.port, error, f"{PORT_VARIABLE}={self.port + 1} make demo") from None
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="demo-site", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._server and self._thread:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A crawler that hangs up is no news; anything else is a bug and prints its traceback."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


@dataclass(frozen=True)
class _Page:
    body: bytes
    modified_s: int
    content_type: str = "text/html; charset=utf-8"

    @property
    def etag(self) -> str:
        return f'"{hashlib.sha256(self.body).hexdigest()[:32]}"'


def _handler(root: Path) -> type[BaseHTTPRequestHandler]:
    return type("Handler", (_Handler,), {"root": root})


class _Handler(BaseHTTPRequestHandler):
    root: Path
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "HeadwaterDemo/1", ""
    wbufsize = -1  # one packet for headers and body: without it each answer waits for a delayed ACK
    timeout = 60  # of an idle connection

    def do_GET(self) -> None:  # named by http.server
        path = unquote(urlsplit(self.path).path)
        if _is_language_folder(self.root, path):
            self._answer(HTTPStatus.MOVED_PERMANENTLY, b"", {"Location": f"{path.rstrip('/')}/index.html"})
            return
        page = _page(self.root, path)
        if page is None:
            self._answer(HTTPStatus.NOT_FOUND, b"<!DOCTYPE html><title>Not found</title>Not found\n")
            return
        headers = {"ETag": page.etag, "Last-Modified": formatdate(page.modified_s, usegmt=True)}
        if self._is_fresh(page):
            self._answer(HTTPStatus.NOT_MODIFIED, b"", headers)
        else:
            self._answer(HTTPStatus.OK, page.body, headers | {"Content-Type": page.content_type})

    do_HEAD = do_GET

    def _is_fresh(self, page: _Page) -> bool:
        """RFC 9110: If-None-Match decides alone where it is given; its comparison is weak."""
        known = self.headers.get("If-None-Match")
        if known is not None:
            tags = [tag.strip().removeprefix("W/") for tag in known.split(",")]
            return "*" in tags or page.etag in tags
        since = self.headers.get("If-Modified-Since")
        try:
            return since is not None and page.modified_s <= parsedate_to_datetime(since).timestamp()
        except ValueError:
            return False

    def _answer(self, status: HTTPStatus, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        headers = {"Content-Type": "text/html; charset=utf-8"} | dict(headers or {})
        if status == HTTPStatus.NOT_MODIFIED:
            del headers["Content-Type"]
        else:
            headers["Content-Length"] = str(len(body))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # signature of http.server
        """Silent: the crawl's own index records every request."""


def _inside(root: Path, path: str) -> Path | None:
    """The file or folder that a URL path names, None when it is outside the root or unspeakable."""
    if "\0" in path or "\\" in path:
        return None
    target = (root / path.lstrip("/")).resolve()
    return target if target.is_relative_to(root) else None


def _is_language_folder(root: Path, path: str) -> bool:
    target = _inside(root, path)
    return target is not None and target != root and (target / "index.html").is_file()


def _page(root: Path, path: str) -> _Page | None:
    if path == "/robots.txt":
        return _Page(ROBOTS, int(root.stat().st_mtime), "text/plain; charset=utf-8")
    if path == _WHOSE:
        return _Page(_signature(root), int(root.stat().st_mtime), "text/plain; charset=utf-8")
    target = _inside(root, path)
    if target is None:
        return None
    if target.is_file() and target.suffix == ".html":
        return _Page(target.read_bytes(), int(target.stat().st_mtime))
    if target.is_dir() and path.endswith("/") and (target == root or target.parent == root):
        return _index_page(root, target)
    return None


def _index_page(root: Path, folder: Path) -> _Page:
    """Links to the first page of each tree below `folder`; as new as the newest of them."""
    targets = [
        page
        for child in sorted(folder.iterdir())
        for page in ([child / "index.html"] if child.is_dir() else [child] if child.name.startswith("index.") else [])
        if page.is_file()
    ]
    sites = [child for child in sorted(folder.iterdir()) if child.is_dir()] if folder == root else []
    name = folder.relative_to(root).as_posix() if folder != root else "sites"
    links = [(f"/{site.name}/", site.name) for site in sites] or [
        (f"/{page.relative_to(root).as_posix()}", page.parent.name if page.parent != folder else page.name)
        for page in targets
    ]
    items = "\n".join(f'<li><a href="{html.escape(url)}">{html.escape(text)}</a></li>' for url, text in links)
    body = (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(name)}</title></head>\n'
        f"<body><ul>\n{items}\n</ul></body></html>\n"
    )
    newest = max((int(page.stat().st_mtime) for page in targets), default=int(folder.stat().st_mtime))
    return _Page(body.encode(), newest)
