"""Hugging Face folders without a network, and inputs on a real S3 protocol server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from assets.build import BuildError
from tests.assets.sources.bulk.bulk import crawl, table
from tests.assets.sources.bulk.warc_files import Page, common_crawl

ROWS = [{"id": str(n), "text": f"document {n} 文章"} for n in range(5)]
EXPECTED = {f"dataset:bulk/{row['id']}": row["text"].encode() for row in ROWS}


def huggingface(path: Path | str, **keys: Any) -> dict[str, Any]:
    return table("dataset", paths=[str(path)], layout="huggingface", columns={"id": "id"}, **keys)


def test_saved_data_sets_and_folders_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    import datasets

    data = datasets.Dataset.from_list(ROWS)
    data.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"train": data.select([0]), "test": data}).save_to_disk(tmp_path / "splits")
    folder = tmp_path / "folder"
    (folder / "data").mkdir(parents=True)
    (folder / "data/train-00000.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert crawl(tmp_path / "b1", huggingface(tmp_path / "saved")).payloads == EXPECTED
    assert crawl(tmp_path / "b2", huggingface(tmp_path / "splits", huggingface_split="test")).payloads == EXPECTED
    assert crawl(tmp_path / "b3", huggingface(folder)).payloads == EXPECTED
    with pytest.raises(BuildError, match="no split 'validation'; it has"):
        crawl(tmp_path / "b4", huggingface(tmp_path / "splits", huggingface_split="validation"))
    with pytest.raises(BuildError, match="cannot be opened"):
        crawl(tmp_path / "b5", huggingface(tmp_path / "absent"))


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Any]]:
    """(endpoint, client) of an S3 server on loopback with a bucket `data`."""
    import boto3
    from moto.server import ThreadedMotoServer

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    client = boto3.client("s3", endpoint_url=endpoint)
    client.create_bucket(Bucket="data")
    yield endpoint, client
    server.stop()


def test_inputs_on_s3(tmp_path: Path, s3: tuple[str, Any]) -> None:
    endpoint, client = s3
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    client.put_object(Bucket="data", Key="sets/a.jsonl", Body=lines.encode())
    client.put_object(Bucket="data", Key="sets/other.bin", Body=b"x")
    source = table("dataset", paths=["s3://data/sets/*.jsonl"], columns={"id": "id"}, s3_endpoint=endpoint)
    assert crawl(tmp_path / "b1", source).payloads == EXPECTED
    with pytest.raises(BuildError, match="names no file"):
        crawl(tmp_path / "b2", source | {"paths": ["s3://data/none/*.jsonl"]})
    with pytest.raises(BuildError, match="names no file"):
        crawl(tmp_path / "b3", source | {"paths": ["s3://no-such-bucket/*"]})
    client.put_object(Bucket="data", Key="docs/a.md", Body=b"# words")
    found = crawl(tmp_path / "b4", table("documents", paths=["s3://data/docs/"], s3_endpoint=endpoint))
    assert found.kept == ["documents:bulk/s3://data/docs/a.md"]


def test_common_crawl_by_byte_ranges_on_s3(tmp_path: Path, s3: tuple[str, Any]) -> None:
    endpoint, client = s3
    pages = [Page(f"https://example.org/{n}", f"<p>{n} 软件包</p>".encode()) for n in range(3)]
    common_crawl(tmp_path, pages)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            client.put_object(Bucket="data", Key=path.relative_to(tmp_path).as_posix(), Body=path.read_bytes())
    keys = {"base_url": "s3://data", "s3_endpoint": endpoint, "urls": ["example.org/*"]}
    for number, way in enumerate(({"cdxj": ["s3://data/cdx-00000.gz"]}, {"columnar": ["s3://data/part-*.parquet"]})):
        found = crawl(tmp_path / f"b{number}", table("common_crawl", **keys, **way))
        assert found.payloads == {page.url: page.body for page in pages}
