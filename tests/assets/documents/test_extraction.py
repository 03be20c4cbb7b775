"""Payload to text: encodings, navigation, tables, code, and every reason for having no text."""

from __future__ import annotations

import time

import pytest

from assets.documents.extraction import Extraction, extract
from assets.documents.formats.charset import decode
from tests.assets.documents.crawls import CHINESE, ENGLISH, TRADITIONAL, page

RECIPE = Extraction()


def html(body: str) -> str:
    return extract(f"<title>T</title><body>{body}".encode(), "text/html; charset=utf-8", "html", RECIPE).text


def test_navigation_goes_and_content_stays() -> None:
    result = extract(page(ENGLISH, "Packages"), "text/html", "html", RECIPE)
    assert (result.title, result.drop_reason) == ("Packages", None)
    assert result.text == f"Packages\n\n{ENGLISH}"


@pytest.mark.parametrize("line", ["Prev", "Next »", "上一页 | 下一页", "Précédent  Suivant", "下一頁", "前のページ"])
def test_unmarked_navigation_lines_go(line: str) -> None:
    assert html(f"<p>{ENGLISH}</p><div>{line}</div>") == ENGLISH


@pytest.mark.parametrize("line", ["Next, install the package.", "首页的内容由管理员决定。", "Home directories"])
def test_sentences_that_begin_like_navigation_stay(line: str) -> None:
    assert html(f"<p>{ENGLISH}</p><p>{line}</p>").endswith(line)


def test_code_blocks_keep_their_lines_and_indentation() -> None:
    code = "for x in y:\n    if x:\n        print(x)"
    assert code in html(f"<p>{ENGLISH}</p><pre>{code}</pre><p>{ENGLISH}</p>")


def test_inline_code_does_not_break_the_sentence() -> None:
    assert (
        html("<p>使用 <code>apt</code>、<code>dpkg</code> 和 <b>aptitude</b>。</p>") == "使用 apt、dpkg 和 aptitude。"
    )


def test_tables_become_rows_with_tabs() -> None:
    text = html("<p>x</p><table><tr><th>Name</th><th>Size</th></tr><tr><td>screen</td><td>1003 KiB</td></tr></table>")
    assert "Name\tSize\nscreen\t1003 KiB" in text


def test_a_page_of_links_is_not_taken_for_text() -> None:
    links = "".join(f"<li><a href=/{n}>Some other page number {n}</a></li>" for n in range(50))
    result = extract(f"<body><ul>{links}</ul></body>".encode(), "text/html", "html", RECIPE)
    assert result.drop_reason == "empty_extraction"


def test_scripts_and_invisible_characters_go() -> None:
    assert html("<script>var x</script><style>p{}</style><p>e\u0301\u200b\ufeff a\u00a0b\u0007</p>") == "é a b"


@pytest.mark.parametrize(
    ("text", "encoding", "content_type"),
    [
        (CHINESE, "gb18030", "text/html; charset=gb2312"),
        (CHINESE, "gb18030", "text/html"),
        (TRADITIONAL, "big5", "text/html; charset=Big5"),
        (TRADITIONAL, "big5", "text/html"),
        (CHINESE, "utf-16", "text/html"),
        ("Où êtes-vous allés, où ça, déjà ? L’été à Besançon.", "cp1252", "text/html"),
        (CHINESE, "utf-8", "text/html; charset=iso-8859-99"),
    ],
)
def test_encodings_declared_and_guessed(text: str, encoding: str, content_type: str) -> None:
    decoded = decode(text.encode(encoding), content_type, max_replaced_share=0.001)
    assert decoded is not None
    assert (decoded.text, decoded.replaced) == (text, 0)


def test_a_meta_charset_is_believed_when_the_bytes_agree() -> None:
    assert CHINESE in extract(f'<meta charset="gbk"><p>{CHINESE}'.encode("gbk"), "text/html", "html", RECIPE).text


def test_a_wrong_declaration_loses_against_utf_8() -> None:
    assert extract(CHINESE.encode(), "text/html; charset=ascii", "text", RECIPE).text == CHINESE


@pytest.mark.parametrize(
    ("text", "encoding", "declared"),
    [
        (CHINESE * 5, "gb18030", "big5"),
        (TRADITIONAL * 5, "big5", "gb2312"),
        ("川の流れは絶えずして、しかも、もとの水にあらず。" * 5, "shift_jis", "gbk"),
        (CHINESE, "utf-8", "zlib_codec"),
    ],
)
def test_a_wrong_double_byte_declaration_loses_against_what_reads_like_text(
    text: str, encoding: str, declared: str
) -> None:
    decoded = decode(text.encode(encoding), f"text/html; charset={declared}", max_replaced_share=0.001)
    assert decoded is not None
    assert decoded.text == text


def test_encoded_surrogates_are_joined_and_lone_ones_are_broken_characters() -> None:
    pair = "源😀流".encode("utf-16-be", "surrogatepass").decode("utf-16-be")
    cesu = "".join(chr(int.from_bytes(pair.encode("utf-16-be")[i : i + 2], "big")) for i in range(0, 8, 2))
    payload = cesu.encode("utf-8", "surrogatepass") * 10
    decoded = decode(payload, None, max_replaced_share=0.001)
    assert decoded is not None
    assert decoded.text == "源😀流" * 10
    assert decode(b"\xed\xa0\x80 text " * 50, None, max_replaced_share=0.001) is None


def test_one_broken_byte_is_forgiven() -> None:
    result = extract((CHINESE * 10).encode() + b"\xff" + CHINESE.encode(), "text/plain; charset=utf-8", "text", RECIPE)
    assert result.drop_reason is None
    assert result.text.count("\ufffd") == 1


def test_code_is_kept_verbatim_except_line_ends() -> None:
    code = "def f():\r\n\treturn '\u00a0e\u0301'  \r\n\x0c\r\n"
    assert extract(code.encode(), "text/x-python", "code", RECIPE).text == code.replace("\r\n", "\n")


def test_a_coding_cookie_names_the_encoding_of_code() -> None:
    source = "# -*- coding: gbk -*-\nname = '软件包'\n"
    assert extract(source.encode("gbk"), "text/x-python", "code", RECIPE).text == source


def test_a_plain_text_page_of_an_html_site_is_text() -> None:
    result = extract(b"a < b\n", "text/plain", "html", RECIPE)
    assert (result.format, result.text) == ("text", "a < b")


@pytest.mark.parametrize(
    ("payload", "content_type", "reason"),
    [
        (b"", "text/html", "empty_extraction"),
        (b"<body><nav>Home</nav></body>", "text/html", "empty_extraction"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "text/html", "not_text"),
        (b"%PDF-1.7", "application/pdf", "broken_document"),
        (bytes(range(128, 256)) * 40, "text/html; charset=utf-8", "undecodable"),
        (b"x" * 10_000_001, "text/html", "too_large"),
    ],
)
def test_every_drop_has_its_reason(payload: bytes, content_type: str, reason: str) -> None:
    result = extract(payload, content_type, "html", RECIPE)
    assert (result.drop_reason, result.text) == (reason, "")
    assert result.detail


def test_hostile_sizes_stay_fast() -> None:
    started = time.process_time()
    deep = b"<div>" * 100_000 + b"deep text" + b"</div>" * 100_000
    assert extract(deep, "text/html", "html", RECIPE).text == "deep text"
    spaces = b"<pre>x" + b" " * 2_000_000 + b"y</pre>"
    assert extract(spaces, "text/html", "html", RECIPE).drop_reason is None
    line = "<p>" + "软件 word " * 1_800_000
    assert len(line.encode()) > 20_000_000
    large = extract(line.encode(), "text/html", "html", Extraction(max_payload_bytes=30_000_000))
    assert large.drop_reason is None
    assert extract(line.encode(), "text/html", "html", RECIPE).drop_reason == "too_large"
    assert time.process_time() - started < 20
