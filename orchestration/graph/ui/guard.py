"""The door of the UI: an ASGI application in front of Dagster's, which itself obeys any page its user visits.

Dagster's web server has no login, answers under any Host and runs mutations for any Origin, also by GET. A web page
can make its visitor's browser send such requests, so each is judged by what the browser itself says about it.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from assets.errors import HeadwaterError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
"""Names no page on the internet can be served under, so that a Host of them cannot be a rebound name."""
_AUTHORITY = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::\d{1,5})?")
_ORIGIN = re.compile(r"https?://[^/?#@\s]+")
_NO_FRAMES = (b"x-frame-options", b"SAMEORIGIN")  # no foreign page shows the UI under a click of its own


class OriginError(HeadwaterError, ValueError):
    """An origin that was configured is none."""


def parse_origins(origins: Iterable[str]) -> frozenset[str]:
    """Further origins under which a proxy serves the UI, checked. Raises OriginError."""
    found = frozenset(each.lower().rstrip("/") for each in origins)
    for each in sorted(found):
        if not (_ORIGIN.fullmatch(each) and _AUTHORITY.fullmatch(urlsplit(each).netloc)):
            raise OriginError(f"{each!r} is no origin: scheme, host and port only, for instance https://ui.example.org")
    return found


class UiGuard:
    """Lets through what the UI itself and programs of this machine send; answers 403 with the reason to the rest."""

    def __init__(self, app: AsgiApp, origins: Iterable[str] = ()) -> None:
        self._app = app
        self._origins = parse_origins(origins)
        self._hosts = frozenset(urlsplit(origin).netloc for origin in self._origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection: HTTP, a websocket, or the server's own start and end."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif refusal := self.refusal(scope):
            await _refuse(scope, receive, send, refusal)
        else:
            await self._app(scope, receive, _without_frames(send))

    def refusal(self, scope: Scope) -> str | None:
        """Why a request is not let through, or None."""
        hosts, origins = _header(scope, b"host"), _header(scope, b"origin")
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            shown = ", ".join(hosts) or "(none)"
            return f"Host {shown} is no name of this UI; open http://127.0.0.1, or allow the name with --origin"
        # A program sends no Origin; a browser always does with a POST and a websocket, and a page cannot forge it.
        for origin in origins:
            if origin not in self._origins and origin not in (f"http://{hosts[0]}", f"https://{hosts[0]}"):
                return f"Origin {origin} is another site's: only the UI's own pages may send this"
        asks = scope["type"] == "http" and scope["method"] != "POST" and scope["path"].rstrip("/").endswith("/graphql")
        if asks and not _only_reads(scope["query_string"]):
            return "a GraphQL mutation is sent by POST"
        return None

    def _is_ours(self, host: str) -> bool:
        match = _AUTHORITY.fullmatch(host)
        return match is not None and (match["name"] in LOOPBACK or host in self._hosts)


def _header(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1").strip().lower() for key, value in scope["headers"] if key.lower() == name]


def _only_reads(query_string: bytes) -> bool:
    """Whether every GraphQL document in a query string holds queries only; one that cannot be parsed does not."""
    from graphql import GraphQLError, OperationDefinitionNode, OperationType, parse

    for text in parse_qs(query_string.decode("latin-1"), keep_blank_values=True).get("query", []):
        try:
            found = [node for node in parse(text).definitions if isinstance(node, OperationDefinitionNode)]
        except (GraphQLError, RecursionError):
            return False
        if any(node.operation is not OperationType.QUERY for node in found):
            return False
    return True


def _without_frames(send: Send) -> Send:
    async def wrapped(message: Any) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), _NO_FRAMES]}
        await send(message)

    return wrapped


async def _refuse(scope: Scope, receive: Receive, send: Send, reason: str) -> None:
    if scope["type"] == "websocket":
        await receive()  # "websocket.connect"; closed before it is accepted, it is answered with 403
        await send({"type": "websocket.close", "code": 1008, "reason": reason[:100]})
        return
    body = f"Refused: {reason}.\n".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": body})
