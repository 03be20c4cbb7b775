"""Large files over HTTP: streamed, resumed by ranges where a connection breaks, never from a private address.

The address that is checked is the one the socket is connected to, so a name that changes its answer
between look-up and connection (DNS rebinding) gains nothing, and a redirect is checked like the first URL.
"""

from __future__ import annotations

import io
import time
from functools import cache
from typing import Any

from assets.machine_faults import raise_machine_fault
from assets.sources.bulk_config import BulkSource
from assets.sources.streams.decompression import InputError
from assets.sources.variables import Variables, sign_in
from assets.sources.web.scope import is_public_address

MAX_RETRY_WAIT_S = 60.0
_RETRY_STATUSES = (408, 429, 500, 502, 503, 504)


class PrivateAddressError(InputError):
    """A URL leads to an address outside the open internet."""

    def __init__(self, host: str, address: str) -> None:
        super().__init__(
            "input_private_address",
            f"{host} is {address}, which is not a public address; if that server is your own, set allow_private_hosts = true",
        )


@cache
def _pool_classes() -> dict[str, Any]:
    """urllib3's pools with connections that check whom they have reached before a byte is sent."""
    from urllib3.connection import HTTPConnection, HTTPSConnection
    from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

    def checked(connection: Any) -> Any:
        class PublicConnection(connection):
            def _new_conn(self) -> Any:
                socket = super()._new_conn()
                address = socket.getpeername()[0].partition("%")[0]
                if not is_public_address(address):
                    socket.close()
                    raise PrivateAddressError(self.host, address)
                return socket

        return PublicConnection

    class PublicHTTP(HTTPConnectionPool):
        ConnectionCls = checked(HTTPConnection)

    class PublicHTTPS(HTTPSConnectionPool):
        ConnectionCls = checked(HTTPSConnection)

    return {"http": PublicHTTP, "https": PublicHTTPS}


class Http:
    """GET for one source: retries with back-off, ranges, whole bodies or streams."""

    def __init__(self, source: BulkSource, variables: Variables) -> None:
        from urllib3 import PoolManager, Retry, Timeout

        self._source, self._variables = source, variables
        self._retry = Retry(
            total=source.retries,
            redirect=5,
            status_forcelist=_RETRY_STATUSES,
            backoff_factor=source.retry_wait_s,
            backoff_max=MAX_RETRY_WAIT_S,
            retry_after_max=int(MAX_RETRY_WAIT_S),
        )
        self._pool = PoolManager(
            timeout=Timeout(source.timeout_s), headers={"User-Agent": "Headwater", "Accept-Encoding": "identity"}
        )
        if not source.allow_private_hosts:
            self._pool.pool_classes_by_scheme = _pool_classes()

    def open(self, url: str, headers: dict[str, str] | None = None) -> Any:
        """urllib3's response, its body not read yet. Raises InputError for whatever is not 200 or 206."""
        from urllib3 import make_headers
        from urllib3.exceptions import HTTPError

        place, user = sign_in(url, self._variables)
        signed = make_headers(basic_auth=user) if user else {}
        try:
            response = self._pool.request(
                "GET",
                place,
                headers={**self._pool.headers, **signed, **(headers or {})},
                preload_content=False,
                decode_content=False,
                retries=self._retry,
            )
        except HTTPError as error:
            raise InputError("input_unreadable", f"{url}: {type(error).__name__}: {error}") from None
        if response.status not in (200, 206):
            response.release_conn()
            raise InputError("input_unreadable", f"{url}: status {response.status}")
        return response

    def range(self, url: str, offset: int, length: int) -> bytes:
        """Exactly these bytes. A server that ignores ranges is an InputError: whole archives are not read for one page."""
        return self.body(url, length, {"Range": f"bytes={offset}-{offset + length - 1}"}, want=length)

    def body(self, url: str, max_bytes: int, headers: dict[str, str] | None = None, want: int | None = None) -> bytes:
        """A small body, read again from the start where the connection breaks."""
        for attempt in range(self._source.retries + 1):
            response = self.open(url, headers)
            if want is not None and response.status != 206:
                response.release_conn()
                raise InputError("input_unreadable", f"{url}: the server does not serve byte ranges (status 200)")
            try:
                content = response.read(max_bytes + 1)
            except Exception as error:
                raise_machine_fault(error)
                problem = f"{type(error).__name__}: {error}"
                self.wait(attempt)
                continue
            finally:
                response.release_conn()
            if len(content) > max_bytes or (want is not None and len(content) != want):
                raise InputError(
                    "input_damaged", f"{url}: {len(content)} bytes came, {want or max_bytes} were expected"
                )
            return content
        raise InputError("input_unreadable", f"{url}: {problem}")

    def wait(self, attempt: int) -> None:
        """Back off before try number `attempt` + 2."""
        time.sleep(min(self._source.retry_wait_s * 2**attempt, MAX_RETRY_WAIT_S))

    @property
    def retries(self) -> int:
        """Failures in a row that are borne."""
        return self._source.retries


class HttpStream(io.RawIOBase):
    """One URL from its first to its last byte, however often the connection breaks."""

    def __init__(self, http: Http, url: str) -> None:
        self._http, self._url = http, url
        self._position = 0
        self._validator = ""
        self._size: int | None = None
        self._response: Any = None
        self._failures = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """The next bytes; 0 at the end that the server announced."""
        while True:
            try:
                response = self._response or self._connect()
                data = response.read(len(buffer))
            except InputError:
                raise
            except Exception as error:  # urllib3, http.client and sockets each have their own for a broken connection
                raise_machine_fault(error)
                self._again(f"{type(error).__name__}: {error}")
                continue
            if data:
                buffer[: len(data)] = data
                self._position += len(data)
                self._failures = 0
                return len(data)
            if self._size is not None and self._position < self._size:
                self._again(f"the body ended after {self._position} of {self._size} bytes")
                continue
            return 0

    def _connect(self) -> Any:
        headers = {}
        if self._position:
            headers["Range"] = f"bytes={self._position}-"
            if self._validator and not self._validator.startswith("W/"):
                headers["If-Range"] = self._validator
        response = self._http.open(self._url, headers)
        validator = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
        if self._position and validator != self._validator:
            raise InputError("input_damaged", f"{self._url} changed on the server while it was read")
        if not self._position:
            length = response.headers.get("Content-Length")
            self._size = int(length) if length and length.isdigit() else None
            self._validator = validator
        elif response.status == 200:  # no ranges there: skip what we have
            skipped = 0
            while skipped < self._position:
                data = response.read(min(1 << 16, self._position - skipped))
                if not data:
                    raise InputError("input_damaged", f"{self._url} became shorter while it was read")
                skipped += len(data)
        self._response = response
        return response

    def _again(self, problem: str) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None
        if self._failures >= self._http.retries:
            raise InputError("input_truncated", f"{self._url}: {problem}, {self._failures + 1} times in a row")
        self._http.wait(self._failures)
        self._failures += 1

    def close(self) -> None:
        if self._response is not None:
            self._response.close()
        super().close()
