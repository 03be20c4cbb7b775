"""Wikitext to the text a reader sees, from dumps written for these tests."""

from __future__ import annotations

import re
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from assets.documents.formats.wikitext import choose_variant, plain_wikitext

FIXTURES = Path(__file__).resolve().parents[3] / "fixtures"


def article(dump: str) -> str:
    root = ElementTree.parse(FIXTURES / dump).getroot()
    return next(element.text or "" for element in root.iter() if element.tag.endswith("}text"))


def test_a_chinese_article() -> None:
    text = plain_wikitext(article("zhwiki.xml"), "zh-hans")
    assert text == (
        "溪水包管理器（Brook，小川）是一种管理软件的工具，由示例基金会维护。它在河源之后出现，支持安装与升级。\n\n"
        "历史\n\n最初的版本于2020年发布，共有 3 个模块。\n- 第一阶段：编写核心\n- 第二阶段：加入签名\n\n"
        "版本\n版本\t年份\n1.0\t2020\n2.0\t2023\n\n名称\n\n名称来自一条小溪。"
    )
    assert "管理軟體的" in plain_wikitext(article("zhwiki.xml"), "zh-hant")


def test_an_english_article() -> None:
    text = plain_wikitext(article("enwiki.xml"))
    assert text == (
        "Brook is a package manager written by the Example Foundation. It weighs 12 kg and is quite fast—see its site.\n\n"
        "Design\n\nThe resolver reads brook.toml and computes O(n \\log n) orders.\n- first step\n- second step\n\n"
        "Name\tSize\ncore\t12\nextra\t3 MB\n\nThe end of the section.\n\nLegacy\n\nIt is still used."
    )


@pytest.mark.parametrize(
    ("wikitext", "hans", "hant"),
    [
        ("-{zh-hans:软件;zh-hant:軟體}-", "软件", "軟體"),
        ("-{zh-cn:网络; zh-tw:網路; zh-hk:網絡}-", "网络", "網路"),
        ("-{不转换}-", "不转换", "不转换"),
        ("-{R|原样}-", "原样", "原样"),
        ("-{H|zh-cn:甲;zh-tw:乙}-文", "文", "文"),
        ("-{T|zh-cn:甲;zh-tw:乙}-文", "文", "文"),
        ("-{A|zh-cn:甲;zh-tw:乙}-文", "甲文", "乙文"),
        ("-{zh-tw:只有台灣}-", "只有台灣", "只有台灣"),
        ("-{zh-hans:外-{内}-;zh-hant:外-{內}-}-", "外内", "外內"),
        ("a-{b", "a-{b", "a-{b"),
    ],
)
def test_variants(wikitext: str, hans: str, hant: str) -> None:
    assert (choose_variant(wikitext, "zh-hans"), choose_variant(wikitext, "zh-hant")) == (hans, hant)


def test_no_markup_is_left() -> None:
    for dump in ("zhwiki.xml", "enwiki.xml"):
        assert not re.search(r"\{\{|\}\}|\[\[|\]\]|'''|<ref|\{\||-\{", plain_wikitext(article(dump)))


def test_hostile_nesting_stays_fast() -> None:
    started = time.perf_counter()
    for hostile in ("{{" * 20_000, "[[" * 20_000, "-{" * 20_000, "{|" * 5_000, "<ref>" * 5_000, "'" * 20_000):
        plain_wikitext(hostile)
    assert time.perf_counter() - started < 30
