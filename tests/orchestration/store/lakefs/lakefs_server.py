"""An HTTP server that speaks lakeFS's API, and an S3 server (moto) beside it, for tests.

    python -m tests.orchestration.store.lakefs.lakefs_server            prints {"lakefs": URL, "s3": URL} and serves until stdin ends

Routes, parameters, bodies and answers are taken from the SDK itself: each request is matched with the SDK's
endpoint definitions, and bodies and answers are validated by the SDK's own models; what they do not know
is refused (400) or is a defect of this server (500). What the operations do: lakefs_model.py.
"""

from __future__ import annotations

import base64
import json
import os
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import lakefs_client
from lakefs_client.client import LakeFSClient
from lakefs_client.exceptions import OpenApiException
from lakefs_client.model_utils import ModelNormal, validate_and_convert_types

from tests.orchestration.store.lakefs.lakefs_model import ApiError, Lakefs

KEY_ID, SECRET = "test-key-id", "test-secret-access-key"
BASE = "/api/v1"
EXTERNAL_S3 = "HEADWATER_TEST_S3"
CONFIGURATION = lakefs_client.Configuration()


def endpoints() -> list[tuple[str, re.Pattern[str], Any]]:
    """Method, path pattern and definition of every operation that both the SDK and `Lakefs` know."""
    client = LakeFSClient(CONFIGURATION)
    found = []
    for api in vars(client).values():
        for name, endpoint in vars(api).items() if type(api).__name__.endswith("Api") else ():
            if name.endswith("_endpoint") and hasattr(Lakefs, endpoint.settings["operation_id"]):
                template = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", endpoint.settings["endpoint_path"])
                found.append((endpoint.settings["http_method"], re.compile(BASE + template), endpoint))
    return found


def valid(value: Any, types: tuple[Any, ...], what: str) -> None:
    """Validate by the SDK's models, which would let unknown keys pass: those are refused too."""
    copied = json.loads(json.dumps(value))  # the SDK converts in place
    validate_and_convert_types(copied, types, [what], True, True, configuration=CONFIGURATION)
    if isinstance(value, dict) and types and isinstance(types[0], type) and issubclass(types[0], ModelNormal):
        known = set(types[0].attribute_map.values())
        if known and not value.keys() <= known:
            raise ValueError(f"{what}: unknown keys {sorted(value.keys() - known)}")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    lakefs: Lakefs
    routes: list[tuple[str, re.Pattern[str], Any]]

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(6, 1, 1)  # TCP_NODELAY

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            status, value = self._handle(body)
        except ApiError as error:
            status, value = error.status, {"message": str(error)}
        except (OpenApiException, ValueError, TypeError, KeyError) as error:
            status, value = 400, {"message": f"{type(error).__name__}: {error}"}
        except Exception as error:
            status, value = 500, {"message": f"a defect of the test server: {error!r}"}
        text = b"" if value is None else (value if isinstance(value, str) else json.dumps(value)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        if status != 204:
            self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if status != 204:
            self.wfile.write(text)

    do_GET = do_POST = do_PUT = do_DELETE = _answer

    def _handle(self, body: bytes) -> tuple[int, Any]:
        expected = "Basic " + base64.b64encode(f"{KEY_ID}:{SECRET}".encode()).decode()
        if self.headers.get("Authorization") != expected:
            raise ApiError(401, "error authenticating request")
        parts = urlsplit(self.path)
        for method, pattern, endpoint in self.routes:
            match = pattern.fullmatch(parts.path)
            if match and method == self.command:
                return self._operate(endpoint, match, parts.query, body)
        raise ApiError(404, f"no such operation: {self.command} {parts.path}")

    def _operate(self, endpoint: Any, match: re.Match[str], query: str, body: bytes) -> tuple[int, Any]:
        arguments: dict[str, Any] = {}
        given = dict(parse_qsl(query, keep_blank_values=True))
        for name, place in endpoint.location_map.items():
            wire = endpoint.attribute_map.get(name, name)
            if place == "path":
                arguments[name] = unquote(match[wire])
            elif place == "query" and wire in given:
                text = given.pop(wire)
                kind = endpoint.openapi_types[name][0]
                arguments[name] = int(text) if kind is int else text.lower() == "true" if kind is bool else text
                valid(arguments[name], endpoint.openapi_types[name], name)
            elif place == "body" and body:
                arguments[name] = json.loads(body)
                valid(arguments[name], endpoint.openapi_types[name], name)
        if given:
            raise ValueError(f"unknown parameters {sorted(given)}")
        missing = set(endpoint.params_map["required"]) - arguments.keys()
        if missing:
            raise ValueError(f"missing {sorted(missing)}")
        with self.lakefs.lock:
            status, value = getattr(self.lakefs, endpoint.settings["operation_id"])(**arguments)
            value = json.loads(json.dumps(value))
        response = endpoint.settings["response_type"]
        if response and status < 300:
            valid(value, response, "answer")
        return status, value


def serve_lakefs() -> ThreadingHTTPServer:
    """A server on a free port of the loopback."""
    handler = type("TestHandler", (Handler,), {"lakefs": Lakefs(), "routes": endpoints()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def s3_url() -> str:
    """The S3 server to use: moto, started here, unless the environment names another one."""
    if url := os.environ.get(EXTERNAL_S3):
        return url
    from moto.server import ThreadedMotoServer

    s3 = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    s3.start()
    host, port = s3.get_host_and_port()
    return f"http://{host}:{port}"


def main() -> None:
    """Serve until standard input ends, so that no server outlives the test that started it."""
    urls = {"lakefs": f"http://127.0.0.1:{serve_lakefs().server_address[1]}", "s3": s3_url()}
    print(json.dumps(urls), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
