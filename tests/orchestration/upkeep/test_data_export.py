"""Rows of published tables in a real store, written where other tools read them: joined with texts, in shards, on S3."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assets.build import BuildError
from assets.schemas import CORPUS, DOCUMENTS, FILTERED
from orchestration.identity.catalog import read_catalog
from orchestration.store.git.store import GitStore
from orchestration.upkeep import data_export
from orchestration.upkeep.data_export import Subject, export

CRAWLS = ("a@20260101T000000Z", "b@20260101T000000Z")


def parquet(rows: list[dict[str, Any]], schema: pa.Schema) -> bytes:
    out = io.BytesIO()
    full = [dict.fromkeys(schema.names) | row for row in rows]
    pq.write_table(pa.Table.from_pylist(full, schema=schema), out)
    return out.getvalue()


@pytest.fixture
def store(tmp_path: Path) -> GitStore:
    """A corpus of four documents whose texts lie in two crawls, and a table with a map column."""
    store = GitStore.at(tmp_path / "store.git")
    corpus, files = [], {}

    def put(folder: str, asset: str, partition: str | None, tables: dict[str, bytes], rows: int) -> None:
        names = {f"{name}.parquet": len(content) for name, content in tables.items()}
        manifest = {"format": 1, "asset": asset, "partition": partition, "version": "v", "files": names}
        manifest["rows"] = dict.fromkeys(tables, rows)
        files[f"{folder}_manifest.json"] = json.dumps(manifest).encode()
        files.update({f"{folder}{name}.parquet": content for name, content in tables.items()})

    for crawl in CRAWLS:
        ids = [f"{crawl[0]}{n}" for n in range(3)]
        texts = [{"doc_id": i, "crawl": crawl, "title": f"T {i}", "text": f"文 {i}"} for i in ids]
        put(
            f"documents/extracted_documents/{crawl}/",
            "extracted_documents",
            crawl,
            {"documents": parquet(texts, DOCUMENTS)},
            3,
        )
        decisions = [{"doc_id": i, "signals": [("digits", 0.5)]} for i in ids]
        put(
            f"documents/filtered_documents/{crawl}/",
            "filtered_documents",
            crawl,
            {"decisions": parquet(decisions, FILTERED)},
            3,
        )
        corpus += [{"doc_id": i, "crawl": crawl, "url": f"u/{i}", "licence": "MIT"} for i in ids[:2]]
    put("dedup/corpus/", "corpus", None, {"documents": parquet(corpus, CORPUS)}, 4)
    store.commit("main", files, message="published")
    return store


def run(store: GitStore, subject: str, destination: Path | str, **options: Any) -> data_export.Exported:
    return export(store, read_catalog(store), Subject.parse(subject), str(destination), **options)


def test_the_corpus_with_its_texts(store: GitStore, tmp_path: Path) -> None:
    done = run(store, "corpus", tmp_path / "c.jsonl", with_text=True)
    rows = [json.loads(line) for line in (tmp_path / "c.jsonl").read_text().splitlines()]
    assert done.rows == 4
    assert [(row["doc_id"], row["title"], row["text"]) for row in rows] == [
        (i, f"T {i}", f"文 {i}") for i in ("a0", "a1", "b0", "b1")
    ]
    with pytest.raises(BuildError, match="not published any more"):
        run(store, "filtered_documents", tmp_path / "d.jsonl", with_text=True)
    assert not (tmp_path / "d.jsonl").exists()
    assert not list(tmp_path.glob("*.unfinished"))


def test_folders_have_shards_and_maps_become_lists(
    store: GitStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_export, "SHARD_ROWS", 2)
    done = run(store, "filtered_documents", f"{tmp_path}/set/")
    assert (done.rows, done.files) == (6, 3)
    table = pq.read_table(tmp_path / "set/data/train-00001.parquet")
    assert table["signals"].to_pylist()[0] == [{"key": "digits", "value": 0.5}]
    assert table.schema.metadata is None
    with pytest.raises(BuildError, match="is there already"):
        run(store, "filtered_documents", f"{tmp_path}/set/")
    assert run(store, f"filtered_documents@{CRAWLS[0]}", f"{tmp_path}/set/", overwrite=True).rows == 3
    assert len(list((tmp_path / "set/data").iterdir())) == 1  # no shard of the first export is left


@pytest.mark.parametrize(
    ("subject", "name", "said"),
    [
        ("nonsense", "x.jsonl", "no asset 'nonsense'"),
        ("token_shards", "x.jsonl", "not published yet"),
        ("extracted_documents@c@20300101T000000Z", "x.jsonl", "no published partition"),
        ("corpus#none", "x.jsonl", "no table 'none'"),
        ("corpus@x", "x.jsonl", "has no partitions"),
        ("corpus", "x.docx", "must end in"),
        ("corpus", "x.parquet.gz", "compressed inside"),
    ],
)
def test_what_is_not_there_is_named(store: GitStore, tmp_path: Path, subject: str, name: str, said: str) -> None:
    with pytest.raises(BuildError, match=said):
        run(store, subject, tmp_path / name)
    assert not (tmp_path / name).exists()


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Endpoint of an S3 server with a bucket `data`."""
    import boto3
    from moto.server import ThreadedMotoServer

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket="data")
    yield f"http://{host}:{port}"
    server.stop()


def test_to_s3_and_in_again(store: GitStore, tmp_path: Path, s3: str) -> None:
    from tests.assets.sources.bulk.bulk import crawl, table

    run(store, "corpus", "s3://data/corpus.jsonl.zst", with_text=True, s3_endpoint=s3)
    with pytest.raises(BuildError, match="is there already"):
        run(store, "corpus", "s3://data/corpus.jsonl.zst", s3_endpoint=s3)
    columns = {"id": "doc_id", "licence": "licence", "title": "title"}
    source = table("dataset", paths=["s3://data/corpus.jsonl.zst"], columns=columns, s3_endpoint=s3)
    found = crawl(tmp_path / "b", source)
    assert found.payloads == {f"dataset:bulk/{i}": f"文 {i}".encode() for i in ("a0", "a1", "b0", "b1")}
    assert found.rows["dataset:bulk/a0"]["licence"] == "MIT"
    run(store, "corpus", "s3://data/set/", s3_endpoint=s3)
    with pytest.raises(BuildError, match="not published any more"):
        run(store, "filtered_documents", "s3://data/none.jsonl", with_text=True, s3_endpoint=s3)
    with pytest.raises(BuildError, match="names no file"):
        crawl(tmp_path / "b2", source | {"paths": ["s3://data/none.jsonl"]})
