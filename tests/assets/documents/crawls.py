"""A crawl of handmade pages as the two segments that extraction reads."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from assets.build import Segment
from assets.schemas import CAPTURES, CRAWL_DELTA, document_id
from assets.sources.config import SOURCE_FILE
from assets.sources.warc import WarcFolder
from assets.tables import write_table
from tests.builds import segment_of

DAY = datetime(2026, 1, 1, tzinfo=UTC)
PARTITION = "site@20260101T000000Z"

ENGLISH = (
    "The package manager keeps the system in a state that is known to work. It reads the list of sources, "
    "finds the newest version of each program, and installs what that program needs. When two programs want "
    "different versions of the same library, it says so and asks the person who administers the machine. "
    "Nothing is removed without a question, and every change can be undone with a second command."
)
CHINESE = (
    "软件包管理器使系统保持在已知可用的状态。它读取软件源的列表，找到每个程序的最新版本，并安装该程序所需的一切。"
    "如果两个程序需要同一个库的不同版本，它会说明原因，并询问管理这台机器的人。没有得到允许，任何东西都不会被删除，"
    "而且每一次改动都可以用另一条命令撤销。这就是为什么人们可以放心地升级一台每天都在使用的电脑。"
)
TRADITIONAL = (
    "軟體套件管理員讓系統維持在已知可用的狀態。它讀取軟體來源的清單，找到每個程式的最新版本，並安裝該程式所需的一切。"
    "如果兩個程式需要同一個程式庫的不同版本，它會說明原因，並詢問管理這台機器的人。沒有得到允許，任何東西都不會被刪除，"
    "而且每一次變更都可以用另一個指令復原。這就是為什麼人們可以放心地升級一台每天都在使用的電腦。"
)
FRENCH = (
    "Le gestionnaire de paquets maintient le système dans un état connu. Il lit la liste des sources, trouve la "
    "version la plus récente de chaque programme et installe ce dont ce programme a besoin. Lorsque deux programmes "
    "demandent des versions différentes de la même bibliothèque, il le signale et interroge l'administrateur."
)
CODE = '''def greatest_common_divisor(a: int, b: int) -> int:
    """Euclid's algorithm: replace the pair by (b, a mod b) until b is zero."""
    while b:
        a, b = b, a % b
    return a


class Fraction:
    # Kept in lowest terms, so that equality is equality of both numbers.
    def __init__(self, over: int, under: int) -> None:
        divisor = greatest_common_divisor(over, under)
        self.over, self.under = over // divisor, under // divisor
'''


def page(text: str, title: str = "Page") -> bytes:
    """A small HTML page with navigation around its text."""
    return (
        f"<!doctype html><html><head><meta charset=utf-8><title>{title}</title></head><body>"
        "<nav><a href=/>Home</a> <a href=/all>All pages</a></nav>"
        f"<h1>{title}</h1><p>{text}</p>"
        "<ul class=docnav><li><a href=a>Prev</a></li><li><a href=b>Next</a></li></ul></body></html>"
    ).encode()


def crawl_of(
    folder: Path,
    pages: Mapping[str, bytes],
    *,
    declared: str = "html",
    content_type: str = "text/html",
    changes: Mapping[str, str] | None = None,
) -> tuple[Segment, Segment]:
    """Segments of raw_crawl and crawl_delta; every page is `added` unless `changes` says otherwise."""
    raw, delta = folder / "raw", folder / "delta"
    raw.mkdir(parents=True)
    captures = []
    with WarcFolder(raw, {"software": "tests"}) as warc:
        for url, payload in sorted(pages.items()):
            place = warc.write_response(url, 200, [("Content-Type", content_type)], payload, DAY)
            sha256 = hashlib.sha256(payload).hexdigest()
            captures.append(
                {
                    "url": url,
                    "source": "site",
                    "crawl": PARTITION,
                    "fetched_at": DAY,
                    "content_type": content_type,
                    "content_sha256": sha256,
                    "doc_id": document_id("site", url, sha256),
                    "licence": "CC0-1.0",
                    "domain": "documentation",
                    "warc_file": place.file,
                    "warc_offset": place.offset,
                    "warc_length": place.length,
                }
            )
    write_table(raw, "captures", captures, CAPTURES)
    (raw / SOURCE_FILE).write_text(
        '{"kind": "files", "licence": "CC0-1.0", "domain": "documentation", "root": "stdlib:",'
        f' "include": ["*"], "format": "{declared}"}}'
    )
    rows = [
        {
            "url": row["url"],
            "source": "site",
            "crawl": PARTITION,
            "change": (changes or {}).get(str(row["url"]), "added"),
            "doc_id": row["doc_id"],
        }
        for row in captures
    ]
    write_table(delta, "delta", rows, CRAWL_DELTA)
    return segment_of(raw, "raw_crawl", PARTITION), segment_of(delta, "crawl_delta", PARTITION)
