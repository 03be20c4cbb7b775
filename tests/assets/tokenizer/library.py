"""A small library of documents in Chinese, English and code, and the segments that would hold them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from assets import schemas
from assets.build import Segment, StageReport, UpdatedTables
from assets.delta_table import Changes
from assets.tables import write_table
from tests.builds import make_build, published, segment_of

SENTENCES: dict[str, tuple[str, ...]] = {
    "zh": (
        "清晨的市场里，卖菜的老人把白菜和萝卜摆得整整齐齐。",
        "春天来了，河边的柳树发出了新芽，孩子们在草地上放风筝。",
        "中华人民共和国成立于1949年10月1日，首都是北京。",
        "图书馆每天早上八点开门，晚上九点关门，周末也不休息。",
        "他把旧自行车修好了，又给链条上了油，骑起来像新的一样。",
        "軟體安裝完成以後，請重新啟動電腦，再檢查網路設定。",
        "这道题的答案是9.11，而不是9.9；请再算一遍！😀",
    ),
    "en": (
        "The old bridge was repaired last summer, and trucks can cross it again.",
        "She doesn't remember where she put the keys, but they're probably upstairs.",
        "Version 9.11 is older than version 9.9, whatever a calculator says.",
        "A good library opens early, closes late, and never asks why you read.",
        "Rain fell for 3 days; the river rose by 42 centimetres and then stopped.",
        "If the network is down, check the cable before you blame the software. 👩‍👩‍👧",
    ),
    "code": (
        "def area(width, height):\n    if width < 0:\n        raise ValueError('negative width')\n    return width * height\n",
        "for (int i = 0; i < 10; i++) {\n\ttotal += values[i];\n}\n",
        "class Shelf:\n    def __init__(self, books):\n        self.books = sorted(books)\n\n    def __len__(self):\n        return len(self.books)\n",
        "SELECT name, count(*) FROM loans WHERE returned IS NULL GROUP BY name;\n",
    ),
}


@dataclass(frozen=True)
class Doc:
    """One document of the library."""

    url: str
    language: str
    text: str
    crawl: str = "books@20240101T000000Z"
    quality: float = 0.5

    @property
    def doc_id(self) -> str:
        return schemas.document_id("books", self.url, hashlib.sha256(self.text.encode()).hexdigest())


def document(language: str, number: int, sentences: int = 6, crawl: str = "books@20240101T000000Z") -> Doc:
    """Document `number` of a language: sentences picked by hash, so that all differ and none is random."""
    pool = SENTENCES[language]
    picks = [hashlib.sha256(f"{language}/{number}/{i}".encode()).digest()[0] for i in range(sentences)]
    joined = ("\n" if language == "code" else " ").join(pool[pick % len(pool)] for pick in picks)
    return Doc(f"https://books.example/{language}/{number}", language, f"{joined}\n{language} {number}", crawl)


def library(per_language: int = 12, sentences: int = 6) -> list[Doc]:
    """The same number of documents of each language."""
    return [document(language, number, sentences) for language in SENTENCES for number in range(per_language)]


def edited(doc: Doc, text: str, crawl: str) -> Doc:
    """The next version of a page."""
    return replace(doc, text=text, crawl=crawl)


def corpus_of(folder: Path, docs: Sequence[Doc]) -> Segment:
    """The corpus asset over these documents."""
    rows = [
        {
            "doc_id": doc.doc_id,
            "url": doc.url,
            "source": "books",
            "crawl": doc.crawl,
            "licence": "CC0-1.0",
            "language": doc.language,
            "script": "Hans" if doc.language == "zh" else None,
            "domain": "code" if doc.language == "code" else "documentation",
            "format": "text",
            "quality": doc.quality,
            "characters": len(doc.text),
            "utf8_bytes": len(doc.text.encode()),
            "cluster_id": doc.doc_id,
        }
        for doc in sorted(docs, key=lambda doc: doc.doc_id)
    ]
    build = make_build(folder, "corpus")
    table = pa.Table.from_pylist(rows, schema=schemas.CORPUS)
    UpdatedTables(build.output, None).write("documents", Changes.all_new(table), schemas.CORPUS)
    return published(build, StageReport())


def extracted_of(folder: Path, docs: Sequence[Doc], version: str = "v1") -> list[Segment]:
    """extracted_documents, one segment per crawl."""
    segments = []
    for crawl in sorted({doc.crawl for doc in docs}):
        rows = [
            dict.fromkeys(schemas.DOCUMENTS.names)
            | {"doc_id": doc.doc_id, "url": doc.url, "source": "books", "crawl": crawl, "text": doc.text}
            for doc in sorted(docs, key=lambda doc: doc.doc_id)
            if doc.crawl == crawl
        ]
        write_table(folder / crawl, "documents", rows, schemas.DOCUMENTS)
        segments.append(segment_of(folder / crawl, "extracted_documents", crawl, version))
    return segments
