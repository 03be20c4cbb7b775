"""The localhost site: conditional requests as RFC 9110 has them, nothing outside its folder, a clear busy port."""

from __future__ import annotations

import http.client
import os
import socket
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest

from orchestration.run.demo_site import DemoError, DemoSite, PortBusyError, demo_port, refuse_busy_port

MODIFIED_S = 1_600_000_000


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoSite]:
    base = tmp_path_factory.mktemp("site")
    root = base / "www"
    pages = {
        "handbook/zh-CN/index.html": "<title>手册</title>你好",
        "handbook/zh-CN/apt.html": "<title>APT</title>软件包",
        "handbook/en-US/index.html": "<title>Handbook</title>Hello",
        "reference/index.zh-cn.html": "<title>参考</title>",
        "reference/notes.txt": "not a page",
    }
    for name, text in pages.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        os.utime(path, (MODIFIED_S, MODIFIED_S))
    (base / "secret.html").write_text("outside", encoding="utf-8")
    (root / "handbook/zh-CN/link.html").symlink_to(base / "secret.html")
    with DemoSite(root, 0) as running:
        yield running


def ask(site: DemoSite, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=10)
    connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, dict(answer.getheaders()), body


def test_a_page_is_served_with_its_validators(site: DemoSite) -> None:
    status, headers, body = ask(site, "/handbook/zh-CN/index.html")
    assert (status, body.decode()) == (200, "<title>手册</title>你好")
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert headers["Last-Modified"] == formatdate(MODIFIED_S, usegmt=True)
    assert headers["ETag"].startswith('"')
    assert site.url == f"http://127.0.0.1:{site.port}"


def test_the_etag_follows_the_content_not_the_name(site: DemoSite) -> None:
    first = ask(site, "/handbook/zh-CN/index.html")[1]["ETag"]
    assert ask(site, "/handbook/zh-CN/index.html?x=1")[1]["ETag"] == first
    assert ask(site, "/handbook/en-US/index.html")[1]["ETag"] != first


def test_a_known_etag_gives_304_without_a_body(site: DemoSite) -> None:
    etag = ask(site, "/handbook/zh-CN/apt.html")[1]["ETag"]
    for value in (etag, f'"other", W/{etag}', "*"):
        status, headers, body = ask(site, "/handbook/zh-CN/apt.html", If_None_Match=value)
        assert (status, body, headers["ETag"]) == (304, b"", etag)
    assert ask(site, "/handbook/zh-CN/apt.html", If_None_Match='"other"')[0] == 200


@pytest.mark.parametrize(("since_s", "status"), [(MODIFIED_S, 304), (MODIFIED_S + 5, 304), (MODIFIED_S - 1, 200)])
def test_if_modified_since(site: DemoSite, since_s: int, status: int) -> None:
    since = formatdate(since_s, usegmt=True)
    assert ask(site, "/handbook/zh-CN/apt.html", If_Modified_Since=since)[0] == status
    # If-None-Match outvotes it
    assert ask(site, "/handbook/zh-CN/apt.html", If_Modified_Since=since, If_None_Match='"other"')[0] == 200


def test_a_senseless_date_is_ignored(site: DemoSite) -> None:
    assert ask(site, "/handbook/zh-CN/apt.html", If_Modified_Since="yesterday")[0] == 200


def test_index_pages_link_every_tree(site: DemoSite) -> None:
    assert b'href="/handbook/"' in ask(site, "/")[2]
    assert b'href="/reference/"' in ask(site, "/")[2]
    languages = ask(site, "/handbook/")[2].decode()
    assert 'href="/handbook/zh-CN/index.html"' in languages
    assert 'href="/handbook/en-US/index.html"' in languages
    assert 'href="/reference/index.zh-cn.html"' in ask(site, "/reference/")[2].decode()
    etag = ask(site, "/handbook/")[1]["ETag"]
    assert ask(site, "/handbook/", If_None_Match=etag)[0] == 304


def test_a_language_folder_leads_to_its_first_page(site: DemoSite) -> None:
    status, headers, _ = ask(site, "/handbook/zh-CN/")
    assert (status, headers["Location"]) == (301, "/handbook/zh-CN/index.html")


def test_robots_allow_everything(site: DemoSite) -> None:
    status, headers, body = ask(site, "/robots.txt")
    assert (status, body) == (200, b"User-agent: *\nAllow: /\n")
    assert headers["Content-Type"].startswith("text/plain")


@pytest.mark.parametrize(
    "path",
    [
        "/handbook/zh-CN/missing.html",
        "/reference/notes.txt",
        "/../secret.html",
        "/%2e%2e/secret.html",
        "/handbook/..%2f..%2fsecret.html",
        "/handbook/zh-CN/link.html",
        "/handbook/zh-CN/index.html%00",
        "//etc/passwd",
    ],
)
def test_nothing_but_pages_below_the_root(site: DemoSite, path: str) -> None:
    status, headers, body = ask(site, path)
    assert status == 404
    assert b"outside" not in body
    assert "ETag" not in headers


def test_head_has_the_headers_of_get_and_no_body(site: DemoSite) -> None:
    got, headed = ask(site, "/handbook/zh-CN/apt.html"), ask(site, "/handbook/zh-CN/apt.html", "HEAD")
    assert headed[0] == 200
    assert headed[2] == b""
    assert headed[1]["Content-Length"] == str(len(got[2]))


def test_many_requests_on_one_connection(site: DemoSite) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=10)
    for path in ("/handbook/zh-CN/apt.html", "/nothing", "/handbook/en-US/index.html") * 5:
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == (404 if path == "/nothing" else 200)
    connection.close()


def test_the_port_is_free_again_after_the_block(tmp_path: Path) -> None:
    with DemoSite(tmp_path, 0) as first:
        port = first.port
    with DemoSite(tmp_path, port) as second:
        assert second.port == port


def test_a_busy_port_is_named_with_the_way_to_change_it(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortBusyError, match=f"Port {port} .*in use.*HEADWATER_DEMO_PORT={port + 1}"):
            DemoSite(tmp_path, port).__enter__()
        with pytest.raises(PortBusyError, match="headwater ui --port 3001"):
            refuse_busy_port(port, "headwater ui --port 3001")
    refuse_busy_port(port, "-")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DemoError, match="absent is not a folder"), DemoSite(tmp_path / "absent", 0):
        pass


@pytest.mark.parametrize(("text", "port"), [("", 8765), ("9000", 9000), (" 9000 ", 9000)])
def test_the_port_comes_from_the_environment(text: str, port: int) -> None:
    assert demo_port({"HEADWATER_DEMO_PORT": text}) == port


@pytest.mark.parametrize("text", ["0", "65536", "-1", "http", "８７６５"])
def test_a_senseless_port_is_refused(text: str) -> None:
    with pytest.raises(DemoError, match="HEADWATER_DEMO_PORT must be a port number from 1 to 65535"):
        demo_port({"HEADWATER_DEMO_PORT": text})
