"""Common Crawl by path list and by each index, from a folder and over HTTP, with servers that fail."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from assets.build import BuildError
from assets.sources.bulk.cdx import parse_filter, url_patterns
from assets.sources.config import SourceConfig
from tests.assets.sources.bulk.bulk import crawl, table
from tests.assets.sources.bulk.warc_files import Page, common_crawl, wet_bytes
from tests.assets.sources.file_server import FileServer, serve

ZH = "<html><body><p>软件包管理系统。</p></body></html>".encode()
PAGES = [
    Page("https://example.org/zh/1", ZH),
    Page("https://example.org/zh/2", ZH + b"2"),
    Page("https://docs.example.org/3", ZH + b"3"),
    Page("https://example.org/gone", b"x", "404 Not Found"),
    Page("https://example.org/image", b"GIF", content_type="image/gif"),
]


def cc(root: Path | str, **keys: Any) -> dict[str, Any]:
    return table("common_crawl", base_url=str(root), retry_wait_s=0, **keys)


def test_whole_files_by_path_list(tmp_path: Path) -> None:
    common_crawl(tmp_path, PAGES)
    found = crawl(tmp_path / "b", cc(tmp_path, path_lists=[str(tmp_path / "warc.paths.gz")]))
    assert found.payloads == {page.url: page.body for page in PAGES[:3]}
    assert found.reasons["https://example.org/gone"] == "http_404"
    assert found.reasons["https://example.org/image"] == "unsupported_content_type"


def test_wet_files_are_text(tmp_path: Path) -> None:
    path = tmp_path / "crawl-data/x.warc.wet.gz"
    path.parent.mkdir()
    path.write_bytes(wet_bytes({"https://example.org/": "软件包管理系统"}))
    (tmp_path / "wet.paths").write_text("crawl-data/x.warc.wet.gz\n")
    found = crawl(tmp_path / "b", cc(tmp_path, path_lists=[str(tmp_path / "wet.paths")]))
    assert found.payloads["https://example.org/"].decode() == "软件包管理系统"


@pytest.mark.parametrize("index", ["cdxj", "columnar"])
def test_single_records_by_index_files(tmp_path: Path, index: str) -> None:
    common_crawl(tmp_path, PAGES)
    ways: dict[str, dict[str, Any]] = {
        "cdxj": {"cdxj": [str(tmp_path / "cdx-00000.gz")], "filters": ["=status:200", "mime:html"]},
        "columnar": {"columnar": [str(tmp_path / "*.parquet")], "where": {"fetch_status": 200}},
    }
    found = crawl(tmp_path / "b", cc(tmp_path, urls=["example.org/zh/*"], **ways[index]))
    assert found.payloads == {page.url: page.body for page in PAGES[:2]}


def test_a_cdx_server_and_byte_ranges(tmp_path: Path) -> None:
    places = common_crawl(tmp_path, PAGES)
    lines = [
        line.split(" ", 2)[2]
        for line in gzip.decompress((tmp_path / "cdx-00000.gz").read_bytes()).decode().splitlines()
    ]
    with serve(FileServer(tmp_path, cdx=lines, failures=[503, 429])) as server:
        source = cc(server.url, index_api=f"{server.url}/index", urls=["*.example.org"], allow_private_hosts=True)
        found = crawl(tmp_path / "b", source)
    assert found.payloads == {page.url: page.body for page in PAGES[:3]}
    ranges = [wanted for _, wanted in server.requests if wanted]
    assert ranges == [f"bytes={p.offset}-{p.offset + p.length - 1}" for p in places]
    assert sum("showNumPages" in path for path, _ in server.requests) == 3  # two failed


def test_files_over_http_resume_where_the_connection_broke(tmp_path: Path) -> None:
    common_crawl(tmp_path, PAGES)
    with serve(FileServer(tmp_path, failures=["cut"] * 2)) as server:
        source = cc(server.url, path_lists=[f"{server.url}/warc.paths.gz"], allow_private_hosts=True)
        found = crawl(tmp_path / "b1", source)
    assert len(found.payloads) == 3
    assert any(wanted for _, wanted in server.requests)
    with serve(FileServer(tmp_path, failures=["cut"], ranges=False)) as server:
        source = cc(server.url, path_lists=[f"{server.url}/warc.paths.gz"], allow_private_hosts=True)
        assert len(crawl(tmp_path / "b2", source).payloads) == 3


def test_a_server_that_never_recovers_is_an_error_and_a_private_one_is_refused(tmp_path: Path) -> None:
    common_crawl(tmp_path, PAGES)
    with serve(FileServer(tmp_path, failures=[500] * 100)) as server:
        source = cc(server.url, path_lists=[f"{server.url}/warc.paths.gz"], allow_private_hosts=True, retries=2)
        with pytest.raises(BuildError, match="path list"):
            crawl(tmp_path / "b1", source)
        before = len(server.requests)
        with pytest.raises(BuildError, match="not a public address"):
            crawl(tmp_path / "b2", source | {"allow_private_hosts": False})
        assert len(server.requests) == before


def test_index_entries_that_lead_nowhere_have_their_reason(tmp_path: Path) -> None:
    places = common_crawl(tmp_path, PAGES)
    filename = next(tmp_path.rglob("*.warc.gz")).relative_to(tmp_path).as_posix()

    def line(url: str, **fields: Any) -> str:
        row = {"url": url, "filename": filename, "offset": places[0].offset, "length": places[0].length} | fields
        return f"k 2024 {json.dumps(row)}"

    lines = [
        line(PAGES[0].url),
        line("https://example.org/other"),
        line("https://example.org/shifted", offset=places[0].offset + 5),
        line("https://example.org/absent", filename="crawl-data/none.warc.gz"),
        line("https://example.org/beyond", offset=10**9),
        line("https://example.org/tricks", filename="../../etc/passwd"),
        line("https://example.org/negative", offset=-5),
        "not an index line",
        "k 2024 {broken",
    ]
    (tmp_path / "index").write_text("\n".join(lines))
    found = crawl(tmp_path / "b", cc(tmp_path, cdxj=[str(tmp_path / "index")], urls=["example.org/*"]))
    assert {url.rpartition("/")[2]: reason for url, reason in found.reasons.items()} == {
        "1": None,
        "other": "index_mismatch",
        "shifted": "damaged_record",
        "absent": "fetch_failed",
        "beyond": "fetch_failed",
        "index%23line-6": "invalid_index_line",
        "index%23line-7": "invalid_index_line",
        "index%23line-8": "invalid_index_line",
        "index%23line-9": "invalid_index_line",
    }


@pytest.mark.parametrize(
    ("query", "url", "met"),
    [
        ("example.org/a/*", "https://example.org/a/b", True),
        ("example.org/a/*", "https://example.org/ab", False),
        ("*.example.org", "http://docs.example.org:8080/x", True),
        ("*.example.org", "http://badexample.org/", False),
        ("https://example.org/a", "http://example.org/a/", True),
        ("example.org/a", "http://example.org/b", False),
    ],
)
def test_url_queries(query: str, url: str, met: bool) -> None:
    assert url_patterns([query])[0](url) is met


@pytest.mark.parametrize(
    ("text", "met"),
    [("status:200", True), ("=status:20", False), ("status:20", True), ("!mime:pdf", True), ("~mime:text/.*", True)],
)
def test_filters(text: str, met: bool) -> None:
    assert parse_filter(text)({"status": "200", "mime": "text/html"}) is met


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "exactly one of"),
        ({"path_lists": ["p"], "cdxj": ["c"]}, "exactly one of"),
        ({"path_lists": ["p"], "urls": ["u"]}, "whole files"),
        ({"cdxj": ["c"]}, "an index needs urls"),
        ({"cdxj": ["c"], "urls": ["u"], "where": {"a": 1}}, "where is of columnar"),
        ({"columnar": ["c"], "urls": ["u"], "filters": ["a:b"]}, "filters are of"),
    ],
)
def test_rules_of_the_table(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SourceConfig.model_validate(cc("x", **keys))


def test_a_body_whose_chunks_were_joined_already_is_taken_as_it_is(tmp_path: Path) -> None:
    odd = Page("https://example.org/odd", b"<html><p>joined</p></html>", headers=(("Transfer-Encoding", "chunked"),))
    common_crawl(tmp_path, [*PAGES, odd])
    found = crawl(tmp_path / "b", cc(tmp_path, cdxj=[str(tmp_path / "cdx-00000.gz")], urls=["example.org/*"]))
    assert found.payloads[odd.url] == odd.body
