"""Scrapy's HTTP/1.1 downloader with two limits that it lacks: the size of a response's head, and an honest length.

Both need the protocol object of Twisted, which Scrapy's handler keeps to itself: this module is the one place that
knows their private names, and tests/assets/sources/web/test_hostile.py fails when they change.
"""

from __future__ import annotations

from typing import Any

from scrapy.core.downloader.handlers.http11 import (
    HTTP11DownloadHandler,
    _LenientHTTP11ClientFactory,  # pyright: ignore[reportPrivateUsage]
    _LenientHTTP11ClientProtocol,  # pyright: ignore[reportPrivateUsage]
)
from scrapy.crawler import Crawler
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure
from twisted.web._newclient import HEADER, STATUS

MAX_HEAD_BYTES = 256 * 1024
"""Status line and headers of one response, and the read that ends them: browsers stop at 256 KiB too. Without it a
server that never ends its headers fills the memory until the request times out."""


class StrictHTTP11DownloadHandler(HTTP11DownloadHandler):
    """Setting DOWNLOAD_HANDLERS for http and https."""

    def __init__(self, crawler: Crawler) -> None:
        super().__init__(crawler)
        self._pool._factory = _StrictFactory


class _StrictFactory(_LenientHTTP11ClientFactory):
    def buildProtocol(self, addr: Any) -> _StrictProtocol:
        return _StrictProtocol(self._quiescentCallback)


class _StrictProtocol(_LenientHTTP11ClientProtocol):
    _head_bytes = 0

    def request(self, request: Any) -> Any:
        self._head_bytes = 0
        return super().request(request)

    def dataReceived(self, bytes: Any) -> None:
        if self._parser is not None and self._parser.state in (STATUS, HEADER):
            self._head_bytes += len(bytes)
            if self._head_bytes > MAX_HEAD_BYTES:
                assert self.transport is not None
                self.transport.abortConnection()
                return
        super().dataReceived(bytes)

    def _finishResponse(self, rest: Any) -> None:
        """More than Content-Length came: the declared length cut the page, so it counts as incomplete."""
        decoder = self._parser.bodyDecoder if self._parser is not None else None
        if not rest.strip() or decoder is None:
            super()._finishResponse(rest)
            return
        decoder.contentLength = 1  # what the decoder finds missing when the parser is told of the end, below
        self._state = "QUIESCENT"
        self._giveUp(Failure(ConnectionDone("more bytes than Content-Length")))  # the rest must not be the next answer
