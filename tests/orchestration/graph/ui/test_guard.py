"""The UI's door: what a browser says of a request decides whether Dagster hears of it. The second half asks the real server."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from orchestration.graph.ui.guard import OriginError, UiGuard, parse_origins

REPOSITORY = Path(__file__).resolve().parents[4]
PROXY = "https://ui.example.org"
QUERY = "query Version { version }"
MUTATION = 'mutation Stop { terminateRun(runId: "none") { __typename } }'


def asked(host: str | None, origin: str | None = None, *, method: str = "POST", query: str = "", kind: str = "http"):
    """What the guard says of one request, and what it sends when it refuses."""
    headers = [(b"host", host.encode())] if host is not None else []
    headers += [(b"origin", origin.encode())] if origin is not None else []
    scope = {
        "type": kind,
        "method": method,
        "path": "/graphql",
        "headers": headers,
        "query_string": f"query={quote(query)}".encode() if query else b"",
    }
    reached: list[str] = []
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope["type"])

    async def receive() -> Any:
        return {"type": f"{kind}.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(UiGuard(app, [PROXY])(scope, receive, send))
    return bool(reached), sent


OWN_HOSTS = ["127.0.0.1:3000", "localhost:3000", "[::1]:3000", "LOCALHOST:3001", "localhost", "ui.example.org"]
FOREIGN_HOSTS = [
    *("evil.example", "evil.example:3000", "127.0.0.1.evil.example:3000", "localhost.evil.example", "0.0.0.0:3000"),
    *("evil.example#127.0.0.1", "evil@127.0.0.1:3000", "127.0.0.1:3000:80", "ui.example.org.evil.example", "", None),
]
FOREIGN_ORIGINS = [
    *("https://evil.example", "http://127.0.0.1:8765", "http://localhost:3000", "null", "http://127.0.0.1"),
    *("http://127.0.0.1:3000.evil.example", "http://evil.example/127.0.0.1:3000", "file://", "http://ui.example.org"),
]


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("host", OWN_HOSTS)
def test_its_own_pages_and_programs_of_this_machine_get_through(host: str, kind: str) -> None:
    assert asked(host, kind=kind) == (True, [])
    assert asked(host, f"http://{host}", kind=kind) == (True, [])


@pytest.mark.parametrize("host", FOREIGN_HOSTS)
def test_a_foreign_host_is_refused_whatever_its_origin(host: str | None) -> None:
    for origin in (None, f"http://{host}", "http://127.0.0.1:3000"):
        for kind in ("http", "websocket"):
            reached, sent = asked(host, origin, kind=kind)
            assert not reached
            assert sent[0].get("status") == 403 or sent[0]["type"] == "websocket.close"


@pytest.mark.parametrize("method", ["POST", "GET", "OPTIONS", "PUT"])
@pytest.mark.parametrize("origin", FOREIGN_ORIGINS)
def test_a_foreign_origin_is_refused_by_any_method(origin: str, method: str) -> None:
    reached, sent = asked("127.0.0.1:3000", origin, method=method)
    assert not reached
    assert sent[0]["status"] == 403
    assert origin in sent[1]["body"].decode()


@pytest.mark.parametrize("origin", FOREIGN_ORIGINS)
def test_a_foreign_origin_opens_no_websocket(origin: str) -> None:
    reached, sent = asked("127.0.0.1:3000", origin, kind="websocket")
    assert not reached
    assert [message["type"] for message in sent] == ["websocket.close"]


def test_the_origin_of_a_proxy_is_known_also_where_it_keeps_our_host() -> None:
    assert asked("127.0.0.1:3000", PROXY)[0]
    assert asked("ui.example.org", PROXY, kind="websocket")[0]


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
def test_only_queries_are_obeyed_without_a_post(method: str) -> None:
    assert asked("127.0.0.1:3000", method=method, query=QUERY)[0]
    assert asked("127.0.0.1:3000", method=method)[0]
    refused = [
        *(MUTATION, f"{QUERY} {MUTATION}", "subscription S { x }", "{ broken", "", "{" * 5000),
        "fragment F on M { x } mutation { y { ...F } }",
    ]
    for query in filter(None, refused):
        assert not asked("127.0.0.1:3000", method=method, query=query)[0], query


def test_of_several_documents_in_one_address_each_is_read() -> None:
    app_reached = []

    async def app(*_: Any) -> None:
        app_reached.append(1)

    query = f"query={quote(QUERY)}&query={quote(MUTATION)}".encode()
    scope = {"type": "http", "method": "GET", "path": "/graphql/", "headers": [(b"host", b"localhost")]}
    guard = UiGuard(app)
    assert guard.refusal({**scope, "query_string": query}) == "a GraphQL mutation is sent by POST"
    assert guard.refusal({**scope, "query_string": query, "path": "/runs"}) is None  # a page, not the endpoint


@pytest.mark.parametrize(
    "origin", ["ui.example.org", "https://", "https://ui.example.org/path", "*", "ftp://x", "https://a@b"]
)
def test_a_configured_origin_that_is_none_is_an_error(origin: str) -> None:
    with pytest.raises(OriginError, match="is no origin: scheme, host and port only"):
        parse_origins([origin])


# --- the server that `headwater ui` starts


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    home = tmp_path_factory.mktemp("ui")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    kept = {k: v for k, v in os.environ.items() if k not in ("DAGSTER_HOME", "HEADWATER_STORE", "HEADWATER_CONFIG")}
    process = subprocess.Popen(
        [sys.executable, "-m", "orchestration.cli", "ui", "--port", str(port), "--origin", PROXY],
        env=kept | {"HEADWATER_HOME": str(home)},
        cwd=REPOSITORY,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                assert request(port, "GET", "/server_info")[0] == 200
                break
            except OSError:
                assert process.poll() is None, process.communicate()[0]
                assert time.monotonic() < deadline, "the UI did not come up"
                time.sleep(0.3)
        yield port, process
    finally:
        for child in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else ():
            child.kill()
        process.kill()
        process.communicate()


def request(port: int, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    text = None if body is None else json.dumps(body)
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, text, {"Content-Type": "application/json", **sent})
    response = connection.getresponse()
    return response.status, response.read().decode()


def test_the_ui_itself_works(server: tuple[int, subprocess.Popen[str]]) -> None:
    port, _ = server
    status, page = request(port, "GET", "/")
    assert (status, '<div id="root"' in page) == (200, True)
    assets = "query Assets { assetNodes { assetKey { path } } }"
    status, answer = request(port, "POST", "/graphql", {"query": assets}, Origin=f"http://127.0.0.1:{port}")
    assert status == 200
    assert ["raw_crawl"] in [node["assetKey"]["path"] for node in json.loads(answer)["data"]["assetNodes"]]
    assert request(port, "GET", f"/graphql?query={quote(QUERY)}", Accept="application/json")[0] == 200
    assert request(port, "POST", "/graphql", {"query": MUTATION})[0] == 200  # a program of this machine
    assert request(port, "POST", "/graphql", {"query": QUERY}, Host="ui.example.org", Origin=PROXY)[0] == 200


def test_a_page_that_its_user_visits_is_not_obeyed(server: tuple[int, subprocess.Popen[str]]) -> None:
    port, _ = server
    by_get = f"/graphql?query={quote(MUTATION)}"
    assert request(port, "GET", by_get)[0] == 403
    assert request(port, "POST", by_get, Origin="https://evil.example", Content_Type="text/plain")[0] == 403
    assert request(port, "POST", "/graphql", {"query": MUTATION}, Origin="https://evil.example")[0] == 403
    assert request(port, "POST", "/graphql", {"query": QUERY}, Origin="null")[0] == 403
    assert request(port, "POST", "/report_asset_materialization/corpus", {}, Origin="http://127.0.0.1:8765")[0] == 403
    assert request(port, "GET", "/", Host=f"rebound.example:{port}")[0] == 403
    assert request(port, "POST", "/graphql", {"query": QUERY}, Host="rebound.example")[0] == 403


def test_websockets_are_for_its_own_pages(server: tuple[int, subprocess.Popen[str]]) -> None:
    port, _ = server
    place: dict[str, Any] = {"uri": f"ws://127.0.0.1:{port}/graphql", "subprotocols": ["graphql-ws"], "proxy": None}
    with connect(**place, origin=f"http://127.0.0.1:{port}") as socket_:
        socket_.send(json.dumps({"type": "connection_init"}))
        assert json.loads(socket_.recv(timeout=20)) == {"type": "connection_ack"}
    with pytest.raises(InvalidStatus) as refused, connect(**place, origin="https://evil.example"):
        pass
    assert refused.value.response.status_code == 403


def test_its_daemon_runs_and_ctrl_c_ends_everything(server: tuple[int, subprocess.Popen[str]]) -> None:
    port, process = server
    daemons = "query D { instance { daemonHealth { allDaemonStatuses { daemonType healthy } } } }"
    deadline = time.monotonic() + 90
    while True:
        health = json.loads(request(port, "POST", "/graphql", {"query": daemons})[1])["data"]["instance"]
        if {d["daemonType"]: d["healthy"] for d in health["daemonHealth"]["allDaemonStatuses"]}.get("SENSOR"):
            break
        assert time.monotonic() < deadline, health
        time.sleep(0.5)
    started = psutil.Process(process.pid).children(recursive=True)
    assert len(started) >= 3  # the daemon, the code server and its worker
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    output, _ = process.communicate(timeout=90)
    assert process.returncode == 0, output
    assert "Traceback" not in output
    _, alive = psutil.wait_procs(started, timeout=30)
    assert not alive
