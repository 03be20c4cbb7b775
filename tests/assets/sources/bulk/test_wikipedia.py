"""MediaWiki dumps as captures: pages, redirects, revisions, and dumps that are broken or hostile."""

from __future__ import annotations

import bz2
from pathlib import Path
from typing import Any

import pytest

from assets.build import BuildError
from assets.documents.extraction import Extraction, extract
from tests.assets.sources.bulk.bulk import crawl, table

FIXTURES = Path(__file__).resolve().parents[3] / "fixtures"
ZH = (FIXTURES / "zhwiki.xml").read_bytes()


def wiki(path: Path | str, language: str = "zh", **keys: Any) -> dict[str, Any]:
    return table("wikipedia", paths=[str(path)], language=language, licence="CC-BY-SA-4.0", **keys)


def test_pages_with_their_provenance(tmp_path: Path) -> None:
    found = crawl(tmp_path / "b", wiki(FIXTURES / "zhwiki.xml"))
    page = "https://zh.wikipedia.org/wiki/"
    assert found.reasons == {
        f"{page}%E6%BA%AA%E6%B0%B4%E5%8C%85%E7%AE%A1%E7%90%86%E5%99%A8": None,
        f"{page}%E6%BA%AA%E6%B0%B4": "redirected",
        f"{page}%E7%A9%BA%E6%9D%A1%E7%9B%AE": "empty_body",
        f"{page}%E6%95%B0%E6%8D%AE_A/B": "unsupported_content_type",
    }
    row = found.rows[found.kept[0]]
    assert row["requested_url"] == "https://zh.wikipedia.org/w/index.php?oldid=1001"
    assert (row["title"], row["language"], row["licence"]) == ("溪水包管理器", "zh", "CC-BY-SA-4.0")
    assert row["fetched_at"].isoformat() == "2026-01-01T10:00:00+00:00"
    assert row["metadata"] == '{"page_id": 1, "revision_id": 1001}'
    assert found.summary["not_taken"] == {"namespace_10": 1}
    text = extract(found.payloads[found.kept[0]], row["content_type"], "auto", Extraction())
    assert (text.format, text.drop_reason) == ("wikitext", None)
    assert text.text.startswith("溪水包管理器（Brook，小川）是一种管理软件的工具")


def test_multistream_and_bz2_hold_the_same_pages(tmp_path: Path) -> None:
    plain = crawl(tmp_path / "b1", wiki(FIXTURES / "zhwiki.xml"))
    cut = ZH.index(b"  <page>")
    (tmp_path / "m.xml.bz2").write_bytes(bz2.compress(ZH[:cut]) + bz2.compress(ZH[cut:-13]) + bz2.compress(ZH[-13:]))
    packed = crawl(tmp_path / "b2", wiki(tmp_path / "m.xml.bz2"))
    assert (packed.payloads, packed.reasons) == (plain.payloads, plain.reasons)


def test_other_namespaces_and_the_newest_of_several_revisions(tmp_path: Path) -> None:
    found = crawl(tmp_path / "b1", wiki(FIXTURES / "enwiki.xml", "en", namespaces=[1]))
    assert found.kept == ["https://en.wikipedia.org/wiki/Talk:Brook_(software)"]
    revision = ZH[ZH.index(b"    <revision>") : ZH.index(b"    </revision>") + len(b"    </revision>\n")]
    newer = revision.replace(b"<id>1001<", b"<id>2001<").replace("小溪".encode(), "大溪".encode())
    (tmp_path / "h.xml").write_bytes(ZH.replace(revision, revision + newer))
    found = crawl(tmp_path / "b2", wiki(tmp_path / "h.xml"))
    assert "大溪" in found.payloads[found.kept[0]].decode()
    assert found.rows[found.kept[0]]["requested_url"].endswith("oldid=2001")


BOMB = b'<?xml version="1.0"?><!DOCTYPE m [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;">]>' + ZH


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (bz2.compress(ZH)[:-40], "input_truncated"),
        (ZH[: ZH.index("空条目".encode())], "input_truncated"),
        (ZH.replace(b"</revision>", b"</revisoin>", 2), "input_damaged"),
        (ZH.replace(b"<timestamp>2026-01-02T10:00:00Z", b"<timestamp>yesterday"), "input_damaged"),
        (ZH.replace("模板正文".encode(), b"\xff\xfe broken UTF-8"), "input_damaged"),
        (BOMB, "input_damaged"),
        (b"<html>not a dump</html>", "input_damaged"),
    ],
)
def test_a_broken_dump_is_recorded_and_the_next_is_read(tmp_path: Path, content: bytes, reason: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.xml").write_bytes(content)
    (folder / "z.xml").write_bytes((FIXTURES / "enwiki.xml").read_bytes())
    found = crawl(tmp_path / "b", wiki(folder))
    assert found.reasons["wikipedia:bulk/a.xml"] == reason
    assert "https://en.wikipedia.org/wiki/Brook_(software)" in found.kept


def test_entities_are_named_as_the_problem(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_bytes(BOMB)
    with pytest.raises(BuildError, match="input_damaged"):
        crawl(tmp_path / "b", wiki(tmp_path / "a.xml"))


def test_a_page_without_end_is_refused_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from assets.sources.bulk import wikipedia

    monkeypatch.setattr(wikipedia, "MIN_REVISION_BYTES", 1 << 20)
    long = ZH.replace("模板正文".encode(), b"x" * 4_000_000)
    (tmp_path / "a.xml").write_bytes(long)
    found = crawl(tmp_path / "b", wiki(tmp_path / "a.xml", max_bytes_per_record=1000))
    assert found.reasons["wikipedia:bulk/a.xml"] == "input_damaged"
    assert "longer than" in found.rows["wikipedia:bulk/a.xml"]["detail"]


def test_variants_are_of_chinese_only() -> None:
    from assets.sources.config import SourceConfig

    with pytest.raises(ValueError, match="Chinese wikis only"):
        SourceConfig.model_validate(wiki("x", "en", variant="zh-hans"))
