"""The data version sees logical content only."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from assets.tables import schema, write_table
from orchestration.identity.digest import data_version

ROWS = schema({"doc_id": pa.string(), "score": pa.float64(), "fetched_at": pa.string()}, volatile=("fetched_at",))


def rows(times: str = "now") -> list[dict[str, object]]:
    return [{"doc_id": f"文档{i}", "score": i / 3, "fetched_at": times} for i in range(10)]


def test_grouping_into_files_and_row_order_do_not_count(tmp_path: Path) -> None:
    write_table(tmp_path / "one", "documents", rows(), ROWS)
    write_table(tmp_path / "parts", "documents-00000", list(reversed(rows()[:4])), ROWS)
    write_table(tmp_path / "parts", "documents-00001", rows()[4:], ROWS)
    assert data_version(tmp_path / "one") == data_version(tmp_path / "parts")
    assert data_version(tmp_path / "one")[1] == {"documents": 10}


def test_volatile_columns_and_files_do_not_count(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_table(tmp_path / name, "documents", rows(times=name), ROWS)
        (tmp_path / name / "crawl.warc.gz").write_bytes(name.encode())
    assert data_version(tmp_path / "a", ["*.warc.gz"]) == data_version(tmp_path / "b", ["*.warc.gz"])
    assert data_version(tmp_path / "a") != data_version(tmp_path / "b")


def test_one_changed_value_one_missing_row_one_renamed_table_count(tmp_path: Path) -> None:
    write_table(tmp_path / "base", "documents", rows(), ROWS)
    changed = rows()
    changed[3]["score"] = 7.0
    write_table(tmp_path / "changed", "documents", changed, ROWS)
    write_table(tmp_path / "missing", "documents", rows()[1:], ROWS)
    write_table(tmp_path / "renamed", "texts", rows(), ROWS)
    versions = {data_version(tmp_path / n)[0] for n in ("base", "changed", "missing", "renamed")}
    assert len(versions) == 4


def test_a_duplicated_row_counts(tmp_path: Path) -> None:
    write_table(tmp_path / "once", "documents", rows(), ROWS)
    write_table(tmp_path / "twice", "documents", rows() + rows()[:1], ROWS)
    assert data_version(tmp_path / "once") != data_version(tmp_path / "twice")


def test_compression_does_not_count(tmp_path: Path) -> None:
    path = write_table(tmp_path / "zstd", "documents", rows(), ROWS)
    (tmp_path / "plain").mkdir()
    pq.write_table(pq.read_table(path), tmp_path / "plain/documents.parquet", compression="none")
    assert data_version(tmp_path / "zstd") == data_version(tmp_path / "plain")
