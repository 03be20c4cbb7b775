"""Documents of a company: every format to text, and every file that must not be trusted."""

from __future__ import annotations

import gzip
import json
import zipfile
from email.message import EmailMessage
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from assets.build import BuildError
from assets.documents.extraction import Extracted, Extraction, extract
from assets.sources.bulk.mailboxes import split_mailbox
from tests.assets.sources.bulk import office
from tests.assets.sources.bulk.bulk import Crawled, crawl, table

ZH = "软件包管理系统负责安装、升级和删除软件。"


def documents(path: Path | str, **keys: Any) -> dict[str, Any]:
    return table("documents", paths=[str(path)], **keys)


def text_of(found: Crawled, name: str) -> Extracted:
    url = f"documents:bulk/{name}"
    return extract(found.payloads[url], found.rows[url]["content_type"], "auto", Extraction())


def mail(subject: str, text: str, identity: str = "<1@example.org>", reply: str = "") -> EmailMessage:
    message = EmailMessage()
    message["Subject"], message["From"], message["Message-ID"] = subject, "a@example.org", identity
    message["Date"] = "Mon, 06 May 2024 07:08:09 +0200"
    message.set_content(text + reply)
    return message


def test_every_format_becomes_text(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "子目录").mkdir(parents=True)
    (folder / "a.md").write_text(
        f"---\ntitle: 手册\n---\n# 标题\n\n{ZH}\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```\ncode  x\n```\n"
    )
    (folder / "子目录/b.html").write_text(f"<title>T</title><p>{ZH}</p><nav>Home</nav>")
    (folder / "c.txt").write_bytes((ZH * 20).encode("gb18030"))
    (folder / "d.pdf").write_bytes(office.pdf([["One line that is long enough to go on", "in the next one."]], "Paper"))
    body = office.paragraph("计划", "Heading1") + office.paragraph(ZH) + office.table([["甲", "乙"], ["1", "2"]])
    (folder / "e.docx").write_bytes(office.docx(body))
    found = crawl(tmp_path / "b", documents(folder))
    assert set(found.reasons.values()) == {None}
    read = {
        name: text_of(found, name)
        for name in ("a.md", "%E5%AD%90%E7%9B%AE%E5%BD%95/b.html", "c.txt", "d.pdf", "e.docx")
    }
    assert [(name.rpartition(".")[2], r.format, r.drop_reason) for name, r in read.items()] == [
        ("md", "markdown", None),
        ("html", "html", None),
        ("txt", "text", None),
        ("pdf", "pdf", None),
        ("docx", "docx", None),
    ]
    assert read["a.md"].title == "手册"
    assert read["a.md"].text == f"标题\n\n{ZH}\n\na\tb\n1\t2\n\ncode  x"
    assert read["c.txt"].text == ZH * 20
    assert (read["d.pdf"].title, read["d.pdf"].text) == (
        "Paper",
        "One line that is long enough to go on in the next one.",
    )
    assert (read["e.docx"].title, read["e.docx"].text) == ("计划", f"计划\n\n{ZH}\n\n甲\t乙\n1\t2")


@pytest.mark.parametrize(
    ("payload", "name", "reason"),
    [
        (office.encrypted_pdf(), "a.pdf", "encrypted_document"),
        (office.pdf([["x"]])[:200], "a.pdf", "broken_document"),
        (office.pdf([[], []]), "a.pdf", "no_text_layer"),
        (b"\xd0\xcf\x11\xe0" + b"\0" * 600, "a.docx", "encrypted_document"),
        (office.docx(office.paragraph("x"))[:300], "a.docx", "broken_document"),
        (office.docx(office.paragraph("&e;"), '<!DOCTYPE w [<!ENTITY e "x">]>'), "a.docx", "broken_document"),
        (office.zip_of({"a.txt": b"no word"}), "a.docx", "broken_document"),
        (office.zip_of({"word/document.xml": b" " * 210_000_000}), "a.docx", "archive_bomb"),
        (b"no header here", "a.eml", "broken_message"),
        (b"Subject: x\nContent-Type: image/png\n\nxx", "a.eml", "no_text_part"),
    ],
)
def test_documents_without_text_have_their_reason(payload: bytes, name: str, reason: str) -> None:
    types = {"pdf": "application/pdf", "eml": "message/rfc822"}
    content_type = types.get(name[2:], "application/vnd.openxmlformats-officedocument.wordprocessingml.document")
    result = extract(payload, content_type, "auto", Extraction())
    assert (result.drop_reason, result.text) == (reason, "")
    assert result.detail


def test_running_heads_of_a_pdf_go_and_paragraphs_are_whole() -> None:
    pages = [
        ["Annual report", f"Page {n} says a sentence which is as long as a line", "and then ends.", f"- {n} -"]
        for n in range(5)
    ]
    text = extract(office.pdf(pages), "application/pdf", "auto", Extraction()).text
    assert "Annual report" not in text
    assert "- 3 -" not in text
    assert "Page 2 says a sentence which is as long as a line and then ends." in text


def test_mail_and_its_attachments(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    reply = "\n\nOn Mon, May 6, 2024 at 7:08 AM, B <b@example.org> wrote:\n> quoted words\n> more of them\n"
    first = mail("关于 计划", f"{ZH}\n", reply=reply)
    first.add_attachment(office.pdf([["attached"]]), maintype="application", subtype="pdf", filename="表.pdf")
    first.add_attachment(b"\x89PNG", maintype="image", subtype="png", filename="p.png")
    (folder / "a.eml").write_bytes(first.as_bytes())
    second = mail("second", "plain words\n", "<2@example.org>")
    third = EmailMessage()
    third["Message-ID"] = "<3@example.org>"
    third.set_content("<p>HTML 正文</p>", subtype="html")
    box = b"".join(b"From a@b Mon May  6 07:08:09 2024\n" + m.as_bytes() + b"\n" for m in (second, third))
    (folder / "b.mbox.gz").write_bytes(gzip.compress(box))
    found = crawl(tmp_path / "b", documents(folder))
    base = "mail/1@example.org"
    assert {url.removeprefix("documents:bulk/"): reason for url, reason in found.reasons.items()} == {
        base: None,
        f"{base}/attachment-1/%E8%A1%A8.pdf": None,
        f"{base}/attachment-2/p.png": "unsupported_content_type",
        "mail/2@example.org": None,
        "mail/3@example.org": None,
    }
    message = text_of(found, base)
    assert (message.title, message.text, message.format) == ("关于 计划", ZH, "email")
    assert found.rows[f"documents:bulk/{base}"]["fetched_at"].isoformat() == "2024-05-06T05:08:09+00:00"
    assert text_of(found, "mail/3@example.org").text == "HTML 正文"
    assert text_of(found, f"{base}/attachment-1/%E8%A1%A8.pdf").text == "attached"


def test_broken_mail_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    broken = [
        b"Subject: =?utf-8?B?broken\nMessage-ID: <1>\nContent-Type: multipart/mixed; boundary=x\n\nno boundary in the body\n",
        b"Message-ID: <2>\nContent-Type: text/plain; charset=nonsense\n\n" + ZH.encode() + b"\n",
        b"Message-ID: <3>\nContent-Transfer-Encoding: base64\n\n!!! not base64 !!!\n",
        b"Message-ID: <4>\nContent-Type: text/plain; charset=us-ascii\n\n" + (ZH * 9).encode("gb18030") + b"\n",
        b"Message-ID: <5>\n\n" + b"x" * 30_000 + b"\n",
        b"\xff\xfe\x00 no header at all\n",
    ]
    box = b"".join(b"From x Mon May  6 07:08:09 2024\n" + message + b"\n" for message in broken)
    (tmp_path / "a.mbox").write_bytes(box)
    found = crawl(tmp_path / "b", documents(tmp_path / "a.mbox", max_bytes_per_record=20_000))
    assert found.reasons == {
        "documents:bulk/mail/1": None,
        "documents:bulk/mail/2": None,
        "documents:bulk/mail/3": None,
        "documents:bulk/mail/4": None,
        "documents:bulk/a.mbox%23message-5": "too_large",
        "documents:bulk/a.mbox%23message-6": "broken_message",
    }
    read = [text_of(found, f"mail/{n}") for n in range(1, 5)]
    assert read[1].text == ZH
    assert read[3].text == ZH * 9
    assert all(r.text or r.drop_reason for r in read)


def test_json_exports(tmp_path: Path) -> None:
    slack = {
        "messages": [{"ts": "1700000000.0002", "text": ZH}, {"ts": "2", "text": 5}, {"ts": "3"}, {"text": "a\ud800"}]
    }
    (tmp_path / "day.json").write_text(json.dumps(slack))
    rules = {"items": "messages", "text": "text", "id": "ts", "time": "ts"}
    found = crawl(tmp_path / "b1", documents(tmp_path / "day.json", json_export=rules))
    assert {url.removeprefix("documents:bulk/day.json"): reason for url, reason in found.reasons.items()} == {
        "/1700000000.0002": None,
        "/2": "wrong_type",
        "/3": "missing_column",
        "%23item-3": "lone_surrogates",
    }
    assert found.rows["documents:bulk/day.json/1700000000.0002"]["fetched_at"].timestamp() == 1700000000
    pages = {"results": [{"id": "7", "title": "Page", "body": {"storage": {"value": f"<h1>x</h1><p>{ZH}</p>"}}}]}
    (tmp_path / "space.json").write_text(json.dumps(pages))
    rules = {"items": "results", "text": "body.storage.value", "id": "id", "title": "title", "html": True}
    found = crawl(tmp_path / "b2", documents(tmp_path / "space.json", json_export=rules))
    assert found.rows["documents:bulk/space.json/7"]["title"] == "Page"
    assert ZH in text_of(found, "space.json/7").text


@pytest.mark.parametrize("pack", ["zip", "tar", "tar.gz"])
def test_archives_and_their_tricks(tmp_path: Path, pack: str) -> None:
    files = {
        "ok/a.txt": ZH.encode(),
        "../climb.txt": b"x",
        "/etc/absolute.txt": b"x",
        "C:\\windows.txt": b"x",
        "back\\..\\..\\slash.txt": b"x",
        "inner.zip": office.zip_of({"a.txt": b"x"}),
        "large.txt": b"ab" * 30_000,
        "image.png": b"\x89PNG",
    }
    links = {"link.txt": "/etc/passwd"}
    content = office.zip_of(files, links) if pack == "zip" else office.tar_of(files, links)
    content = gzip.compress(content) if pack == "tar.gz" else content
    (tmp_path / f"a.{pack}").write_bytes(content)
    found = crawl(tmp_path / "b", documents(tmp_path / f"a.{pack}", max_bytes_per_record=50_000))
    inside = {url.partition("!/")[2]: reason for url, reason in found.reasons.items()}
    assert {reason for name, reason in inside.items() if "climb" in name or "slash" in name} == {"unsafe_path"}
    assert [reason for name, reason in inside.items() if "absolute" in name or "windows" in name] == ["unsafe_path"] * 2
    assert inside["ok/a.txt"] is None
    assert (inside["inner.zip"], inside["large.txt"], inside["link.txt"], inside["image.png"]) == (
        "nested_archive",
        "too_large",
        "link_in_archive",
        "unsupported_content_type",
    )


def test_zip_bombs_passwords_and_wrong_checksums(tmp_path: Path) -> None:
    content = bytearray(
        office.zip_of({"ok.txt": b"fine", "bomb.txt": b"\0" * 5_000_000, "crc.txt": b"damaged content here"})
    )
    with zipfile.ZipFile(BytesIO(bytes(content))) as archive:
        crc = archive.getinfo("crc.txt")
    content[crc.header_offset + 30 + len("crc.txt") + 3] ^= 0xFF
    (tmp_path / "a.zip").write_bytes(content)
    found = crawl(tmp_path / "b1", documents(tmp_path / "a.zip"))
    assert {url.partition("!/")[2]: reason for url, reason in found.reasons.items()} == {
        "ok.txt": None,
        "bomb.txt": "archive_bomb",
        "crc.txt": "damaged_member",
    }
    (tmp_path / "c.tar.gz").write_bytes(gzip.compress(office.tar_of({"a.txt": b"fine", "z.txt": b"\0" * 80_000_000})))
    found = crawl(tmp_path / "b2", documents(tmp_path / "c.tar.gz", max_bytes_per_record=90_000_000))
    assert found.reasons == {"documents:bulk/c.tar.gz!/a.txt": None, "documents:bulk/c.tar.gz": "input_bomb"}
    (tmp_path / "d.zip").write_bytes(bytes(content)[:-40])
    with pytest.raises(BuildError, match=r"kept nothing.*input_damaged"):
        crawl(tmp_path / "b3", documents(tmp_path / "d.zip"))


def test_include_and_exclude(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "private").mkdir(parents=True)
    for name in ("a.txt", "b.md", "private/c.txt"):
        (folder / name).write_text("words")
    found = crawl(tmp_path / "b", documents(folder, include=["*.txt"], exclude=["private/*"]))
    assert found.kept == ["documents:bulk/a.txt"]
    assert found.summary["not_taken"] == {"excluded": 2}


@pytest.mark.parametrize(
    "envelope",
    [
        "From bob@example.com Fri Aug 10 08:00:00 2012",
        "From - Fri Aug  3 08:00:00 2012",
        "From bob at example.com  Fri Aug 10 08:00:00 2012",
        "From 1409@xxx Fri Aug 10 08:00:00 +0000 2012",
        "From bob Fri, 10 Aug 2012 08:00:00 +0200 (CEST)",
        "From bob 2012-08-10T08:00:00Z",
        "From bob Fri Aug 10 08:00 2012 remote from uucp",
        "From nobody",
        "From bob@example.com 10.08.2012 08:00",
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_every_form_of_envelope_begins_a_message(envelope: str, newline: str) -> None:
    box = (
        f"{envelope}\nSubject: one\n\nwords\n\n{envelope}\n>From relay Thu Aug  9 18:39:17 2012\nSubject: two\n\nmore\n"
    )
    found = list(split_mailbox(BytesIO(box.replace("\n", newline).encode()), 1000))
    messages = ["Subject: one\n\nwords\n\n", "Subject: two\n\nmore\n"]
    assert found == [(n, text.replace("\n", newline).encode()) for n, text in enumerate(messages, 1)]


@pytest.mark.parametrize(
    "line",
    [
        "From the north the ferry leaves at nine.",
        "From the north the ferry leaves at 9:15, and returns at 18:00",
        "From Monday",
        "From bob@example.com we hear nothing.",
        "From Fri Aug 10 on",
    ],
)
@pytest.mark.parametrize("following", ["It returns at noon.", "", "Note: bring a coat"])
def test_a_line_of_text_begins_no_message(line: str, following: str) -> None:
    body = f"Subject: s\n\nThe committee met.\n\n{line}\n{following}\n"
    found = list(split_mailbox(BytesIO(b"From a@b Mon May  6 07:08:09 2024\n" + body.encode()), 1000))
    assert found == [(1, body.encode())]
