"""Names are bytes: what is no UTF-8 in a folder, an archive or a mail is a row under a name that says those bytes."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from assets.build import SilentProgress
from assets.documents.extraction import Extraction
from assets.documents.standalone import extract_files
from assets.sources.bulk.records import bulk_url
from assets.sources.config import SourceConfig
from assets.sources.crawl import capture_source
from orchestration.config import ConfigError
from orchestration.upkeep.data_import import new_source
from tests.assets.sources.bulk.bulk import crawl, table
from tests.builds import segment_of

BAD = os.fsdecode(b"caf\xe9 \xff")  # Latin-1 of a disk that was mounted with another character set
NAMED = "caf%E9%20%FF"


def put(folder: Path, name: str, content: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_bytes(content)
    return path


def test_documents_in_folders_and_archives(tmp_path: Path) -> None:
    put(tmp_path / "in", f"{BAD}.txt", b"A text under a name of other bytes.")
    put(tmp_path / "in", f"{BAD}.xyz", b"no kind of document")
    put(tmp_path / "in", "café.txt", b"A text under a good name.")
    with tarfile.open(tmp_path / "in" / f"{BAD}.tar", "w") as archive:
        info = tarfile.TarInfo(f"{BAD}/{BAD}.txt")
        info.size = 20
        archive.addfile(info, io.BytesIO(b"A text in an archive"))
        archive.addfile(tarfile.TarInfo(f"../{BAD}.txt"))
    found = crawl(tmp_path / "c", table("documents", paths=[str(tmp_path / "in")]))
    assert found.reasons == {
        f"documents:bulk/{NAMED}.txt": None,
        f"documents:bulk/{NAMED}.xyz": "unsupported_content_type",
        "documents:bulk/caf%C3%A9.txt": None,
        f"documents:bulk/{NAMED}.tar!/{NAMED}/{NAMED}.txt": None,
        f"documents:bulk/{NAMED}.tar!/../{NAMED}.txt": "unsafe_path",
    }


def test_data_sets(tmp_path: Path) -> None:
    put(tmp_path / "in", f"{BAD}.jsonl", b'{"text": "a row of it"}\nno JSON\n')
    put(tmp_path / "in", f"{BAD}.txt", b"a whole text")
    found = crawl(tmp_path / "c", table("dataset", paths=[str(tmp_path / "in")]))
    assert sorted(found.reasons.values(), key=str) == [None, None, "invalid_json"]
    assert f"dataset:bulk/{NAMED}.jsonl%23line-2" in found.reasons and f"dataset:bulk/{NAMED}.txt" in found.reasons


def test_files_of_this_machine(tmp_path: Path) -> None:
    put(tmp_path / "in", f"{BAD}.py", b"print('a module')\n")
    keys = {"format": "code", "root": str(tmp_path / "in"), "include": ["*.py"]}
    source = SourceConfig.model_validate(table("files", **keys)).root
    (tmp_path / "out").mkdir()
    capture_source(source, "f@20260101T000000Z", tmp_path / "out", tmp_path / "work", SilentProgress())
    rows = segment_of(tmp_path / "out", "raw_crawl", "f@20260101T000000Z").table("captures").to_pylist()
    assert [row["url"] for row in rows] == [f"file:///f/{NAMED}.py"]


def test_mail(tmp_path: Path) -> None:
    message = (
        b"Message-ID: <\xe9@x>\nSubject: caf\xe9 \xff\nDate: Mon, 1 Jan 2024 00:00:00 +0000\nMIME-Version: 1.0\n"
        b"Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: text/plain\n\nThe text of the message.\n"
        b'--b\nContent-Type: text/plain\nContent-Disposition: attachment; filename="caf\xe9.txt"\n\nattached text\n--b--\n'
    )
    put(tmp_path / "in", "a.eml", message)
    found = crawl(tmp_path / "c", table("documents", paths=[str(tmp_path / "in")]))
    assert sorted(found.payloads.values()) == [message, b"attached text"]
    assert all(url.isascii() for url in found.reasons)


def test_stage_extract(tmp_path: Path) -> None:
    page = (
        b"<html><head><title>T</title></head><body><p>"
        + b"A sentence about the sea and its ferries. " * 9
        + b"</p></body></html>"
    )
    put(tmp_path / "in", f"{BAD}.html", page)
    extract_files(tmp_path / "in", tmp_path / "out", Extraction.model_validate({}))
    assert [json.loads(line)["id"] for line in (tmp_path / "out/documents.jsonl").read_text().splitlines()] == [
        f"{NAMED}.html"
    ]


def test_an_import_of_such_a_path_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "sources.toml").write_text("")
    path = put(tmp_path / "in", f"{BAD}.jsonl", b'{"text": "a"}\n')
    keys = {"licence": "CC0-1.0", "domain": "web"}
    with pytest.raises(ConfigError, match=r"caf\\xe9 \\xff\.jsonl.*not UTF-8.*rename it, or name the folder above it"):
        new_source([str(path)], "notes", keys, {}, tmp_path)


@pytest.mark.parametrize(
    ("name", "url"), [(BAD, NAMED), ("\ud800", "%5Cud800"), ("\udc00", "%5Cudc00"), ("é", "%C3%A9")]
)
def test_urls_of_ours(name: str, url: str) -> None:
    assert bulk_url("k", "s", name) == f"k:s/{url}"
