"""Pages made to break a crawler or a parser: each must end in a reason, and memory must stay bounded.

    python -m tests.campaigns.bad_pages     about 70 cases, 2 minutes; writes docs/results/bad_input.json

Crawl cases: servers that lie (tests/assets/sources/web/hostile.py); beside the hostile pages stands a good one, which must be
kept. What may cost memory has a crawl of its own, so that the peak of the crawler's process is that of the case; the
others share one. Address cases: a start URL that leads to this machine or a private network, and a name that is public
when it is looked up first and private after. Extraction cases: payloads through the sandbox, the large ones each in a
process of its own.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from benchmarks.results import Goal, Result, finish, why

ROOT = Path(__file__).resolve().parents[2]
CODE = ("assets/sources", "assets/documents", "tests/campaigns/bad_pages.py", "tests/assets/sources/web/hostile.py")

CRAWL_PEAK_MB = 450
"""Python, Scrapy and Arrow take 190 MB; 8 pages of max_bytes_per_page = 5 MB may be received, decoded and parsed."""
EXTRACTION_PEAK_MB = 1500
"""A parse tree of max_payload_bytes = 10 MB of nothing but tags; per worker."""

HOSTS = ["127.0.0.1", "127.1", "2130706433", "0x7f000001", "0", "localhost", "[::1]", "[::ffff:127.0.0.1]"]
PRIVATE_STARTS = [f"http://{host}:{{port}}/docs/" for host in HOSTS]
PRIVATE_STARTS += ["http://169.254.169.254/latest/meta-data/", "http://10.0.0.1/", "http://192.168.1.1/"]

REBINDING = """
import runpy, socket, sys
answers = iter(sys.argv.pop(1).split(","))
last = ["127.0.0.1"]
def rebinding(name):
    last[0] = next(answers, last[0])
    return last[0]
socket.gethostbyname = rebinding
sys.argv[0] = "spider"
runpy.run_module("assets.sources.web.spider", run_name="__main__")
"""
"""The crawler with a resolver that answers as its owner likes, at every look-up anew."""


HEAVY = ["endless-headers", "bomb-gzip", "bomb-deflate", "bomb-br", "bomb-zstd", "bomb-nested", "bomb-in-bomb"]
HEAVY += ["bomb-members", "100-mb", "100-mb-chunked", "endless", "nested-tags", "many-links"]
"""Crawl cases that may cost memory."""


@dataclass(frozen=True)
class Row:
    """How one case ended. `problem`: empty, or what went wrong."""

    stage: str
    case: str
    outcome: str
    detail: str
    peak_mb: int
    seconds: float
    problem: str = ""


# --- payloads for extraction

CHINESE = "黄河之水天上来，奔流到海不复回。" * 40
TRADITIONAL = "這本書說的是一條河流，我們從山上看見它的時候，它還很小。" * 20
JAPANESE = "川の流れは絶えずして、しかも、もとの水にあらず。" * 40


def _html(text: str, charset: str, declared: str | None) -> bytes:
    meta = f'<meta charset="{declared}">' if declared else ""
    return f"<html><head>{meta}</head><body><p>{text}</p></body></html>".encode(charset, "replace")


def payloads() -> dict[str, tuple[Callable[[], bytes], str, str | None]]:
    """Case -> (payload, content type, expected drop reason; None = text comes out)."""
    html, plain = "text/html", "text/plain"
    return {
        "gb18030 declared as utf-8": (lambda: _html(CHINESE, "gb18030", "utf-8"), html, None),
        "gb18030 without a declaration": (lambda: _html(CHINESE, "gb18030", None), html, None),
        "big5 declared as gb2312": (lambda: _html(TRADITIONAL, "big5", "gb2312"), html, None),
        "big5 without a declaration": (lambda: _html(TRADITIONAL, "big5", None), html, None),
        "gb18030 declared as big5": (lambda: _html(CHINESE + "这是我们的河，", "gb18030", "big5"), html, None),
        "shift_jis declared as gbk": (lambda: _html(JAPANESE, "shift_jis", "gbk"), html, None),
        "shift_jis declared as utf-8": (lambda: _html(JAPANESE, "shift_jis", "utf-8"), html, None),
        "utf-8 declared as big5": (lambda: _html(CHINESE, "utf-8", "big5"), html, None),
        "half utf-8, half gb18030": (
            lambda: _html(CHINESE, "utf-8", None)[:-20] + CHINESE.encode("gb18030"),
            html,
            "undecodable",
        ),
        "a codec that is no charset": (lambda: _html(CHINESE, "utf-8", "zlib_codec"), html, None),
        "utf-16 with a byte order mark": (lambda: ("\ufeff" + CHINESE).encode("utf-16-le"), plain, None),
        "random bytes": (lambda: bytes((n * 7919 + n // 256) % 255 + 1 for n in range(100_000)), html, "undecodable"),
        "NUL bytes": (lambda: b"<p>text</p>\0" * 100, html, "not_text"),
        "lone surrogates as entities": (lambda: _html("&#xD800;text&#56320; " * 50, "utf-8", "utf-8"), html, None),
        "lone surrogates as bytes": (lambda: b"<p>" + b"\xed\xa0\x80 text " * 50, html, "undecodable"),
        "one broken byte in a page": (
            lambda: _html("plain English text. " * 100, "utf-8", "utf-8") + b"\xff",
            html,
            None,
        ),
        "10^6 nested tags": (lambda: b"<div><b>" * 500_000 + b"<p>deep text</p>", html, None),
        "10^6 unclosed attributes": (lambda: b"<p a='" * 1_000_000, html, "empty_extraction"),
        "10^6 tables in tables": (lambda: b"<table><tr><td>" * 333_333 + b"deep", html, None),
        "10^6 entities": (lambda: b"<p>" + b"&amp;&#x4e2d;" * 500_000, html, None),
        "9.9 MB in a single line": (lambda: b"x " * 4_950_000, plain, None),
        "9.9 MB of one word": (lambda: b"x" * 9_900_000, html, None),
        "50 MB in a single line": (lambda: b"x " * 25_000_000, plain, "too_large"),
        "100 MB page": (lambda: bytes(100_000_000), html, "too_large"),
        "9.9 MB of opening brackets": (lambda: b"<" * 9_900_000, html, None),
        "9.9 MB of comments": (lambda: b"<!-- -->" * 1_237_500, html, "empty_extraction"),
    }


READS = {"gb18030": CHINESE, "utf": CHINESE, "a codec": CHINESE, "big5": TRADITIONAL, "shift_jis": JAPANESE}
"""What must come out of the cases whose names begin so: mojibake is no text."""


def extract_case(case: str) -> dict[str, Any]:
    """One payload through the sandbox of the stage, with the stage's defaults; in this process."""
    from datatrove.data import Document

    from assets.child_process import peak_rss_bytes
    from assets.documents.blocks import SandboxedExtractor
    from assets.documents.extraction import Extraction

    make, content_type, _ = payloads()[case]
    payload = make()
    document = Document(text="", id="x", metadata={"payload": payload, "content_type": content_type, "url": "x"})
    good = Document(
        text="",
        id="y",
        metadata={"payload": _html("after " * 50, "utf-8", None), "content_type": "text/html", "url": "y"},
    )
    del payload
    result, after = SandboxedExtractor("html", Extraction.model_validate({})).run([document, good])
    own, sandbox = peak_rss_bytes() or 0, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    result.text.encode()  # what is handed on can be written
    return {
        "reason": result.metadata["drop_reason"],
        "detail": result.metadata["detail"],
        "characters": len(result.text),
        "start": result.text[:20],
        "after": after.metadata["drop_reason"],
        "peak_mb": max(own, sandbox) // 1_000_000,
    }


def extraction_rows() -> list[Row]:
    """How every payload ended."""
    rows = []
    cases = payloads()
    large = [case for case in cases if " MB" in case or "10^6" in case]
    for together in [[case for case in cases if case not in large], *([case] for case in large)]:
        started = time.monotonic()
        command = [sys.executable, "-m", "tests.campaigns.bad_pages", "--extract", *together]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        seconds = round(time.monotonic() - started, 1)
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        for case, line in zip_longest(together, lines, fillvalue=""):
            if not line:
                rows.append(Row("extract", case, "crashed", "", 0, seconds, done.stderr[-300:]))
            else:
                rows.append(_extraction_row(case, cases[case][2], json.loads(line), seconds))
            _say(rows[-1])
    return rows


def _extraction_row(case: str, expected: str | None, found: dict[str, Any], seconds: float) -> Row:
    problem = "" if found["reason"] == expected else f"expected {expected or 'text'}"
    reads = next((text for name, text in READS.items() if case.startswith(name)), "")
    if reads and not reads.startswith(found["start"]):
        problem += f"; reads {found['start']}"
    if found["after"] is not None:
        problem += f"; the document after it: {found['after']}"
    if found["peak_mb"] > EXTRACTION_PEAK_MB:
        problem += f"; more than {EXTRACTION_PEAK_MB} MB"
    detail = found["detail"] or f"{found['characters']} characters: {found['start']}"
    return Row("extract", case, found["reason"] or "kept", detail, found["peak_mb"], seconds, problem)


# --- crawls


def crawl_rows(folder: Path) -> list[Row]:
    """One crawl per hostile page, and one of all links that lead astray."""
    from tests.assets.sources.web.hostile import CASES, LINKS, serve_hostile
    from tests.assets.sources.web.test_crawl import crawl, rows_of
    from tests.assets.sources.web.test_hostile import EXPECTED, hostile_source

    rows = []
    together = [path for path in CASES if path.rpartition("/")[2] not in HEAVY]
    for paths in [together, *([f"/docs/{case}"] for case in HEAVY)]:
        started = time.monotonic()
        with serve_hostile(*paths) as server:
            report, segment = crawl(folder / paths[0].rpartition("/")[2], hostile_source(server, max_pages=100))
        seconds = round(time.monotonic() - started, 1)
        peak = report.stats["crawler_peak_rss_bytes"] // 1_000_000
        found = rows_of(segment)
        for path in paths:
            case, row = path.rpartition("/")[2], found[path]
            problem = "" if row["drop_reason"] == EXPECTED[case] else f"expected {EXPECTED[case]}"
            if found["/docs/fine"]["drop_reason"] is not None:
                problem += f"; the good page: {found['/docs/fine']['drop_reason']}"
            if peak > CRAWL_PEAK_MB:
                problem += f"; more than {CRAWL_PEAK_MB} MB"
            detail = (row["detail"] or "")[:120].replace(server.url, "")
            rows.append(Row("crawl", case, row["drop_reason"] or "kept", detail, peak, seconds, problem))
            _say(rows[-1])
    started = time.monotonic()
    with serve_hostile(links=tuple(LINKS.values())) as server:
        report, segment = crawl(folder / "links", hostile_source(server))
    outside = [
        row["url"] for row in segment.table("captures").to_pylist() if not row["url"].startswith(f"{server.url}/docs/")
    ]
    asked = [
        path
        for path in server.requests
        if not path.startswith("/docs/") and "robots" not in path and ".txt" not in path and ".json" not in path
    ]
    rows.append(
        Row(
            "crawl",
            f"{len(LINKS)} links that lead astray",
            "not followed",
            f"{report.stats['malformed_links']} malformed; {len(segment.table('captures'))} URLs met",
            report.stats["crawler_peak_rss_bytes"] // 1_000_000,
            round(time.monotonic() - started, 1),
            f"met {outside}, asked {asked}" if outside or asked else "",
        )
    )
    _say(rows[-1])
    return rows


def address_rows(folder: Path) -> list[Row]:
    """Crawls that must not reach this machine."""
    from assets.build import BuildError
    from tests.assets.sources.web.hostile import serve_hostile
    from tests.assets.sources.web.test_crawl import crawl
    from tests.assets.sources.web.test_hostile import hostile_source

    rows = []
    public = {"allow_private_hosts": False, "contact": "https://example.org/bot", "delay_s": 0.1}
    for number, start in enumerate(PRIVATE_STARTS):
        started = time.monotonic()
        with serve_hostile() as server:
            url = start.format(port=server.url.rpartition(":")[2])
            try:
                crawl(folder / f"address{number}", hostile_source(server, **public, start_urls=[url]))
                message = ""
            except BuildError as error:
                message = str(error)
        problem = f"reached: {dict(server.requests)}" if server.requests else "" if message else "no error"
        shown = message.partition(": ")[2].partition(". ")[0][:120]
        case = start.replace(":{port}", "")
        rows.append(Row("address", case, "refused", shown, 0, round(time.monotonic() - started, 1), problem))
        _say(rows[-1])
    rows += [_rebinding(folder, "public first, private after", "93.184.216.34,127.0.0.1")]
    rows += [_rebinding(folder, "private first, public after", "127.0.0.1,93.184.216.34")]
    return rows


def _rebinding(folder: Path, case: str, answers: str) -> Row:
    """A name whose answer changes; nothing that it leads to may be this machine."""
    from tests.assets.sources.web.hostile import serve_hostile
    from tests.assets.sources.web.test_hostile import hostile_source

    started = time.monotonic()
    with serve_hostile() as server:
        port = server.url.rpartition(":")[2]
        source = hostile_source(server, contact="x", delay_s=0.1, retries=3, retry_wait_s=0.1, timeout_s=2)
        source |= {"allow_private_hosts": False, "start_urls": [f"http://rebinding.example:{port}/docs/"]}
        output = folder / case.replace(" ", "-")
        output.mkdir()
        job = output / "job.json"
        task = {"name": "x", "crawl": "x@20260101T000000Z", "output": str(output), "source": source, "previous": None}
        job.write_text(json.dumps(task))
        command = [sys.executable, "-c", REBINDING, answers, "--job", str(job)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    message = json.loads(done.stdout.splitlines()[-1]).get("message", "") if done.stdout else done.stderr[-300:]
    problem = (
        f"reached: {dict(server.requests)}" if server.requests else "" if done.returncode == 2 else done.stderr[-300:]
    )
    shown = message.partition(": ")[2].partition("; ")[0][:120].replace(f":{port}", "")
    row = Row("address", f"rebinding: {case}", "refused", shown, 0, round(time.monotonic() - started, 1), problem)
    _say(row)
    return row


def _say(row: Row) -> None:
    print(
        f"{row.stage:8} {row.case:34} {row.outcome:24} {row.peak_mb:5} MB {row.seconds:6} s  {row.problem}", flush=True
    )


def main() -> int:
    """All cases; exits 1 if one did not end as it should."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        rows += crawl_rows(Path(folder))
        rows += address_rows(Path(folder))
    rows += extraction_rows()
    problems = [row for row in rows if row.problem]
    print(f"{len(rows)} cases, {len(problems)} problems (goal: 0)")
    return finish(result_of([asdict(row) for row in rows]))


def result_of(rows: list[dict[str, Any]], figures: dict[str, Any] | None = None) -> Result:
    """What was asked for and what was found."""

    def peak(stage: str) -> int:
        return max(row["peak_mb"] for row in rows if row["stage"] == stage)

    goals = [
        Goal("cases that did not end with their reason", sum(bool(row["problem"]) for row in rows), "<=", 0, ()),
        Goal("MB of the crawler at its peak", peak("crawl"), "<=", CRAWL_PEAK_MB, ("peak_mb",)),
        Goal("MB of an extraction worker at its peak", peak("extract"), "<=", EXTRACTION_PEAK_MB, ("peak_mb",)),
    ]
    not_judged = why("bounded by the limits of the source; a case over them is a problem", "seconds")
    return Result("bad_input", CODE, goals, rows, figures or {}, not_judged)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--extract"]:
        for name in sys.argv[2:]:
            print(json.dumps(extract_case(name), ensure_ascii=False), flush=True)
        sys.exit(0)
    sys.exit(main())
