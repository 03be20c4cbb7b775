"""Opt-out signals: what each of them keeps from training, and what must not count as one."""

from __future__ import annotations

import pytest

from assets.sources.web.optout import page_opt_out, rsl_reserves, site_policy
from assets.sources.web.rsl import RESERVED, rsl_rules
from assets.sources.web.scope import licence_links

HOST = "https://h.example"


@pytest.mark.parametrize(
    ("robots", "path", "signal"),
    [
        (b"User-agent: *\nContent-Usage: train-ai=n", "/a", "robots_content_usage"),
        (b"User-agent: *\nContent-Usage: /x/ train-ai=n", "/a", None),
        (b"User-agent: *\nContent-Usage: /x/ train-ai=n", "/x/a", "robots_content_usage"),
        (b"User-agent: *\nContent-Usage: train-ai=n\nContent-Usage: /ok/ train-ai=y", "/ok/a", None),
        (b"User-agent: *\nContent-Usage: train-ai=y\nContent-Usage: train-ai=n", "/a", "robots_content_usage"),
        (b"User-agent: *\nContent-Usage: search=n", "/a", None),
        (b"User-agent: *\nContent-Signal: search=yes, ai-train=no", "/a", "robots_content_signal"),
        (b"User-agent: *\nContent-Signal: ai-train=yes", "/a", None),
        (b"User-agent: other\nContent-Signal: ai-train=no", "/a", None),
        (b"User-agent: *\nContent-Signal: ai-train=no\n\nUser-agent: headwater\nAllow: /", "/a", None),
        (b"User-agent: a\nUser-agent: Headwater # us\nContent-Usage: train-ai=n", "/a", "robots_content_usage"),
        (b"Content-Signal: ai-train=no\nUser-agent: *\nAllow: /", "/a", "robots_content_signal"),
        (b"\xff\xfe not text", "/a", None),
    ],
)
def test_robots_lines(robots: bytes, path: str, signal: str | None) -> None:
    assert site_policy(robots).opt_out(HOST + path) == signal


def test_robots_rules_and_delay() -> None:
    policy = site_policy(b"User-agent: *\nDisallow: /no/\nCrawl-delay: 2.5\nLicense: https://h.example/l.xml\n")
    assert not policy.may_fetch(f"{HOST}/no/x")
    assert policy.may_fetch(f"{HOST}/yes")
    assert policy.crawl_delay_s == 2.5
    assert policy.rsl_licences == ("https://h.example/l.xml",)
    absent = site_policy(None)
    assert absent.may_fetch(f"{HOST}/x")
    assert (absent.robots_sha256, absent.crawl_delay_s, absent.opt_out(f"{HOST}/x")) == (None, 0.0, None)


def test_tdmrep_first_match_decides_and_an_unreadable_file_reserves_all() -> None:
    rules = b'[{"location": "/open/*", "tdm-reservation": 0}, {"location": "/*", "tdm-reservation": 1}]'
    policy = site_policy(None, rules)
    assert policy.opt_out(f"{HOST}/open/a") is None
    assert policy.opt_out(f"{HOST}/a") == "tdmrep_json"
    assert site_policy(None, b"{broken").opt_out(f"{HOST}/a") == "tdmrep_json"
    assert site_policy(None, b'{"location": "/"}').opt_out(f"{HOST}/a") == "tdmrep_json"


def test_ai_txt_is_read_like_robots() -> None:
    policy = site_policy(None, ai_txt=b"User-Agent: *\nDisallow: /art/\nDisallow: *.pdf\n")
    assert policy.opt_out(f"{HOST}/art/1") == "ai_txt"
    assert policy.opt_out(f"{HOST}/x.pdf") == "ai_txt"
    assert policy.opt_out(f"{HOST}/text/1") is None


@pytest.mark.parametrize(
    ("name", "value", "signal"),
    [
        ("X-Robots-Tag", "noai", "header_robots_noai"),
        ("x-robots-tag", "noindex, NoAI", "header_robots_noai"),
        ("X-Robots-Tag", "headwater: noai", "header_robots_noai"),
        ("X-Robots-Tag", "otherbot: noai", None),
        ("X-Robots-Tag", "noimageai", None),
        ("Content-Usage", "train-ai=n", "header_content_usage"),
        ("Content-Usage", "train-ai=y", None),
        ("Content-Signal", "ai-train=no", "header_content_signal"),
        ("tdm-reservation", "1", "header_tdm_reservation"),
        ("TDM-Reservation", "0", None),
        ("Content-Type", "noai", None),
    ],
)
def test_headers(name: str, value: str, signal: str | None) -> None:
    assert page_opt_out([(name, value)]) == signal


@pytest.mark.parametrize(
    ("name", "content", "signal"),
    [
        ("robots", "noindex,noai", "meta_robots_noai"),
        ("Headwater", "noai", "meta_robots_noai"),
        ("tdm-reservation", "1", "meta_tdm_reservation"),
        ("description", "noai", None),
        ("robots", "nofollow", None),
    ],
)
def test_meta_elements(name: str, content: str, signal: str | None) -> None:
    assert page_opt_out([], [(name, content)]) == signal


def rsl(content: str) -> bytes:
    return f'<rsl xmlns="https://rslstandard.org/rsl">{content}</rsl>'.encode()


@pytest.mark.parametrize(
    ("content", "reserved"),
    [
        ('<content url="/"><license><prohibits type="usage">ai-train</prohibits></license></content>', True),
        ('<content url="/"><license><prohibits type="usage">ai-input search</prohibits></license></content>', False),
        ('<content url="/"><license><permits type="usage">search</permits></license></content>', True),
        ('<content url="/"><license><permits type="usage">search, ai-all</permits></license></content>', False),
        ('<content url="/"><license><payment type="free"/></license></content>', False),
        ('<content url="/"><license><payment type="training"><amount>5</amount></payment></license></content>', True),
        ('<content url="/"><license><payment type="attribution"/></license></content>', True),
        ('<content url="/" server="https://l.example"><license/></content>', True),
        ('<content url="/"><license><payment type="crawl"/></license><license/></content>', False),
        ('<content url="/"><copyright>us</copyright></content>', False),
        ('<content url="/other/"><license><prohibits type="usage">all</prohibits></license></content>', False),
        ('<content url="/"><license><prohibits type="usage">all</prohibits></license></content>'
         '<content url="/docs/"><license/></content>', False),
        ('<content url="https://h.example/docs/*"><license><prohibits type="usage">all</prohibits></license></content>',
         True),
    ],
)  # fmt: skip
def test_an_rsl_licence_that_we_cannot_accept_reserves(content: str, reserved: bool) -> None:
    assert rsl_reserves(rsl_rules(rsl(content)), f"{HOST}/docs/a") is reserved


@pytest.mark.parametrize("body", [b"", b"<html></html>", b"<rsl", b"\x00", b"<!DOCTYPE x [<!ENTITY a 'b'>]>&a;"])
def test_an_rsl_file_that_cannot_be_read_reserves_all(body: bytes) -> None:
    assert rsl_rules(body) == RESERVED
    assert rsl_reserves(RESERVED, f"{HOST}/a")


def test_rsl_of_a_link_header() -> None:
    header = '</l.xml>; rel="license"; type="application/rsl+xml", </x>; rel=next'
    assert licence_links(header) == ["/l.xml"]
    assert licence_links("<https://creativecommons.org/licenses/by/4.0/>; rel=license") == []
