"""A table that is updated equals the table built at once: in rows, in digest, in what an update says of itself."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assets.build import Segment, UpdatedTables
from assets.delta_table import Changes, difference, table_parts, write_changes
from assets.tables import schema, write_table
from orchestration.identity.digest import digest_folder

REPOSITORY = Path(__file__).resolve().parents[2]

ROWS = schema(
    {"doc_id": pa.string(), "reason": pa.string(), "score": pa.float64(), "place": pa.int64()},
    volatile=("place",),
    key=("doc_id",),
)
PAIRS = schema({"a": pa.string(), "b": pa.string(), "similarity": pa.float64()}, key=("a", "b"))


def rows_of(content: dict[str, tuple[str | None, float]]) -> pa.Table:
    rows = [
        {"doc_id": key, "reason": reason, "score": score, "place": hash(key) % 7}
        for key, (reason, score) in sorted(content.items())
    ]
    return pa.Table.from_pylist(rows, schema=ROWS)


def files_of(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in folder.iterdir()}


class History:
    """Versions of one table, each in a folder of its own that links the files it keeps."""

    def __init__(self, root: Path) -> None:
        root.mkdir(exist_ok=True)
        self.root, self.number = root, 0
        self.content: dict[str, tuple[str | None, float]] = {}
        self.segment: Segment | None = None
        self.digests: dict = {}

    def update(self, content: dict[str, tuple[str | None, float]]) -> None:
        self.number += 1
        output = self.root / str(self.number)
        output.mkdir()
        changes = difference(rows_of(self.content), rows_of(content))
        base = self.segment.files if self.segment else {}
        written = UpdatedTables(output, self.segment)
        written.write("decisions", changes, ROWS)
        names = written.extends.kept if written.extends else set()
        found = digest_folder(output, (), {name: self.digests[name] for name in names})
        extends = None
        if self.segment and written.extends:
            extends = {"version": self.segment.version, "updates": written.extends.updates}
        files = {name: base[name] for name in names} | files_of(output)
        self.digests, self.content = found.files, content
        self.segment = Segment("corpus", None, found.version, files, {"extends": extends})


contents = st.dictionaries(
    st.sampled_from([f"{number:02d}" for number in range(24)]),
    st.tuples(st.sampled_from([None, "too_short", "exact_duplicate"]), st.sampled_from([0.0, 0.5, 1.0])),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(contents, min_size=1, max_size=9))
def test_any_history_equals_the_table_built_at_once(tmp_path_factory: pytest.TempPathFactory, history: list) -> None:
    root = tmp_path_factory.mktemp("history")
    table = History(root)
    for content in history:
        before = table.segment
        table.update(content)
        assert table.segment is not None
        once = root / f"once-{table.number}"
        once.mkdir()
        write_table(once, "decisions", rows_of(content), ROWS)
        fresh = digest_folder(once)
        assert table.segment.table("decisions").equals(rows_of(content))
        assert sorted(pa.Table.from_batches(table.segment.batches("decisions"), ROWS).to_pylist(), key=str) == sorted(
            rows_of(content).to_pylist(), key=str
        )
        assert table.segment.version == fresh.version
        if before is not None:
            changes = table.segment.changes("decisions", before.version)
            assert changes is not None
            old = {row["doc_id"]: row for row in before.table("decisions").to_pylist()}
            for row in changes.removed.to_pylist():
                assert old.pop(row["doc_id"]) == row
            old |= {row["doc_id"]: row for row in changes.added.to_pylist()}
            assert [old[key] for key in sorted(old)] == rows_of(content).to_pylist()


def test_a_thousand_small_updates_leave_few_parts(tmp_path: Path) -> None:
    table = History(tmp_path)
    content: dict[str, tuple[str | None, float]] = {f"{n:05d}": (None, 0.5) for n in range(400)}
    table.update(dict(content))
    for night in range(300):
        content[f"{night * 7 % 400:05d}"] = (None, float(night))
        content[f"n{night:04d}"] = (None, 0.0)
        table.update(dict(content))
        assert table.segment is not None
        assert len(table_parts(table.segment.files, "decisions")) <= 11
    assert table.segment is not None and table.segment.table("decisions").equals(rows_of(content))


def test_a_version_further_back_or_unknown_has_no_changes(tmp_path: Path) -> None:
    table = History(tmp_path)
    table.update({"a": (None, 1.0)})
    first = table.segment
    table.update({"b": (None, 1.0)})
    table.update({"c": (None, 1.0)})
    assert first is not None and table.segment is not None
    assert table.segment.changes("decisions", first.version) is None
    same = table.segment.changes("decisions", table.segment.version)
    assert same is not None and len(same) == 0


def test_two_key_columns_identify_a_row(tmp_path: Path) -> None:
    first = pa.table({"a": ["1", "1"], "b": ["2", "3"], "similarity": [0.9, 0.8]}, schema=PAIRS)
    write_changes(tmp_path, "pairs", Changes(PAIRS.empty_table(), first), PAIRS, {})
    after = pa.table({"a": ["1", "2"], "b": ["3", "3"], "similarity": [0.8, 1.0]}, schema=PAIRS)
    update = write_changes(tmp_path, "pairs", difference(first, after), PAIRS, files_of(tmp_path))
    assert update.number == 1
    assert Segment("x", None, "", files_of(tmp_path)).table("pairs").equals(after)


def test_removing_from_a_table_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 rows removed from a table that does not exist"):
        write_changes(tmp_path, "decisions", Changes(rows_of({"a": (None, 0.0)}), rows_of({})), ROWS, {})


def test_duckdb_reads_an_updated_table_as_the_data_contract_says(tmp_path: Path) -> None:
    import duckdb

    draw = random.Random(7)
    table, content = History(tmp_path / "history"), {}
    for night in range(30):
        for key in draw.sample([f"{number:02d}" for number in range(60)], 9):
            if content.pop(key, None) is None or draw.random() < 0.6:
                content[key] = ("too_short", float(night))
        table.update(dict(content))
    assert table.segment is not None and len(table.segment.files) > 2
    folder = tmp_path / "dedup/corpus"
    folder.mkdir(parents=True)
    for name, path in table.segment.files.items():
        (folder / name.replace("decisions", "documents")).hardlink_to(path)
    page = (REPOSITORY / "docs/data-contract.md").read_text(encoding="utf-8")
    query = re.search(r'duckdb -c "\n(  with rows .*?)"\n```', page, re.DOTALL)
    assert query is not None
    rows = query[1].replace("'dedup/", f"'{tmp_path}/dedup/").replace("language, count(*)", "doc_id, score")
    found = duckdb.sql(rows.replace(" group by all", "")).fetchall()
    assert sorted(found) == sorted((key, score) for key, (_, score) in content.items())
