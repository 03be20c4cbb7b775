"""`headwater import` and `export`, through the command: files become a source, rows come out as others read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from backports import zstd

from orchestration.config import ConfigError
from orchestration.upkeep.data_export import Subject
from orchestration.upkeep.data_import import kind_of
from tests.end_to_end.harness import Home

ROWS = [{"id": str(n), "body": f"document {n} 文章"} for n in range(3)]
NEW = ["--name", "notes", "--licence", "CC0-1.0", "--domain", "notes", "--set", "columns.text=body"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home into which one file was imported, twice."""
    home = Home.create(tmp_path_factory.mktemp("home"), 1)
    data = home.root / "notes.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS) + "{broken\n")
    arguments = [str(data), *NEW, "--set", "columns.id=id"]
    (first,) = home.json("import", *arguments, "--at", "20260101T000000Z")
    assert (first["partition"], first["kept"], first["dropped"]) == ("notes@20260101T000000Z", 3, {"invalid_json": 1})
    assert first["changes"] == {"added": 3, "changed": 0, "removed": 0, "unchanged": 0}
    ROWS[1]["body"] = "another text"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (second,) = home.json("import", "notes", "--at", "20260102T000000Z")
    assert second["changes"] == {"added": 0, "changed": 1, "removed": 0, "unchanged": 2}
    return home


def test_the_source_stands_in_the_configuration(home: Home) -> None:
    text = (home.config / "sources.toml").read_text()
    assert "[notes]" in text
    assert 'text = "body"' in text
    again = home.headwater("import", str(home.root / "notes.jsonl"), *NEW, expect=1)
    assert "has a source 'notes' already" in again.stderr


@pytest.mark.slow
def test_a_source_that_cannot_be_read_stops_no_other(tmp_path: Path) -> None:
    home = Home.create(tmp_path / "home", 1)
    sources = home.config / "sources.toml"
    sources.write_text(sources.read_text().replace("delay_s = 0", "delay_s = 0\nretries = 0"))
    failed = home.headwater("import", "site", "code", "--at", "20260101T000000Z", expect=1)
    assert failed.stderr.count("error:") == 1
    assert "source 'site'" in failed.stderr
    assert "code@20260101T000000Z: " in failed.stdout
    assert home.states()["raw_crawl[code@20260101T000000Z]"] == "fresh"
    refused = home.headwater("run", "--recipe", "tiny", "--abandon", "code@20260101T000000Z", expect=1)
    assert "is published" in refused.stderr


def test_rows_come_out(home: Home, tmp_path: Path) -> None:
    done = home.json("export", "raw_crawl@notes@20260102T000000Z", str(tmp_path / "c.jsonl.zst"))
    assert (done["rows"], done["table"]) == (3, "captures")
    lines = zstd.decompress((tmp_path / "c.jsonl.zst").read_bytes()).splitlines()
    assert [json.loads(line)["url"] for line in lines] == [f"dataset:notes/{n}" for n in range(3)]


def test_the_folder_is_a_hugging_face_data_set(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    import datasets

    home.json("export", "raw_crawl", str(tmp_path / "set") + "/")
    rows: Any = datasets.load_dataset(str(tmp_path / "set"), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows.num_rows == 7  # 4 and 3: all partitions
    assert rows[0]["url"] == "dataset:notes/0"


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        ("a/*.jsonl.zst", "dataset"),
        ("s3://b/x.parquet", "dataset"),
        ("https://example.org/zhwiki-latest-pages-articles.xml.bz2", "wikipedia"),
        ("x.warc.gz", "warc"),
        ("x.warc.wet.gz", "warc"),
        ("mail.mbox", "documents"),
        ("papers.zip", "documents"),
        ("notes.txt", "dataset"),
    ],
)
def test_names_say_the_kind(spec: str, kind: str) -> None:
    assert kind_of(spec)["kind"] == kind


def test_a_name_that_says_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="--kind"):
        kind_of("data.bin")


def test_subjects_are_parsed() -> None:
    found = Subject.parse("raw_crawl@site@20260101T000000Z#captures")
    assert (found.asset, found.partition, found.table) == ("raw_crawl", "site@20260101T000000Z", "captures")
