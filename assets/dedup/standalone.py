"""Deduplication of plain files with the code of the graph, for people who want this one stage.

Input: JSONL of {"id", "text"}, a file or a folder of *.jsonl. Output: `clusters.tsv`, one line
`id<TAB>kept_id` per live document, sorted by id, and `pairs.tsv` with the proof of each duplicate.
Without qualities and crawl times the representative of a cluster is its smallest id.

With a state folder a call adds its input to what earlier calls read and compares only what is new; an id
that comes again replaces its older text, and ids listed in a file (one per line) leave. The files of a
call are complete before `current.json` names them, so a call that dies leaves the state of the one before.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from assets.build import BuildError, Progress, SilentProgress
from assets.dedup.clustering.engine import update_clusters
from assets.dedup.recipe import DedupRecipe
from assets.dedup.signatures import SignatureReader, SignatureRecipe, signature_batches
from assets.delta_table import Changes
from assets.json_text import exact_json
from assets.machine_faults import raise_machine_fault
from assets.schemas import DUPLICATE_PAIRS, DUPLICATES, SIGNATURES
from assets.tables import write_table

SPARED = ("\t", "\n", "\r", "\0")
"""Characters that an id cannot hold: they would break the lines of clusters.tsv."""


@dataclass(frozen=True)
class Summary:
    """What `deduplicate` did; all counts are of the live documents after it."""

    documents: int
    kept: int
    exact_duplicates: int
    near_duplicates: int


def deduplicate(
    source: Path,
    output: Path,
    signatures: SignatureRecipe | None = None,
    dedup: DedupRecipe | None = None,
    progress: Progress | None = None,
    state: Path | None = None,
    remove: Path | None = None,
) -> Summary:
    """Write clusters.tsv and pairs.tsv into `output`; with `state`, go on from it and keep it up to date."""
    if remove is not None and state is None:
        raise BuildError(f"{remove} names documents to remove; that needs the state they are in: give its folder too")
    progress = progress or SilentProgress()
    signing, dedup = signatures or SignatureRecipe(), dedup or DedupRecipe()
    with (
        tempfile.TemporaryDirectory(prefix="headwater-dedup-") as folder,
        _locked(state or Path(folder) / "state") as kept,
    ):
        before = _Kept.read(kept, signing)
        read, ids = _signed(source, Path(folder) / "signatures.arrow", signing, progress)
        leaving = _leaving(remove, ids, before.decisions["doc_id"])
        alike = {"quality": pa.repeat(0.0, len(ids)), "crawled_at": pa.repeat("", len(ids))}
        documents = pa.table({"doc_id": ids} | alike)
        files = {name: kept / name for name in before.files}
        found = update_clusters(files, documents, leaving, read, dedup, kept, progress, ids="text")
        decisions = _applied(before.decisions, found.decisions, ["doc_id"])
        pairs = _applied(before.pairs, found.pairs, ["doc_id_a", "doc_id_b"])
        if state is not None:
            _keep(kept, decisions, pairs, (*found.kept_files, *found.new_files), signing)
    output.mkdir(parents=True, exist_ok=True)
    columns = (decisions[name].to_pylist() for name in ("doc_id", "representative"))
    _write_lines(output / "clusters.tsv", (f"{one}\t{kept}" for one, kept in zip(*columns, strict=True)))
    rows = (row for batch in pairs.to_batches(max_chunksize=4096) for row in batch.to_pylist())
    lines = (f"{r['doc_id_a']}\t{r['doc_id_b']}\t{r['similarity']:.6f}\t{r['method']}" for r in rows)
    _write_lines(output / "pairs.tsv", lines)
    exact, near = found.stats["exact_duplicates"], found.stats["near_duplicates"]
    return Summary(len(decisions), len(decisions) - exact - near, exact, near)


def _signed(
    source: Path, path: Path, recipe: SignatureRecipe, progress: Progress
) -> tuple[SignatureReader, pa.ChunkedArray]:
    """Sign the input into a file; (a reader of it, the ids). Memory is that of a batch."""
    ids: list[pa.Array] = []
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, SIGNATURES) as writer:
        for batch in signature_batches(read_jsonl(source), recipe):
            writer.write_table(batch)
            ids += batch["doc_id"].chunks
            progress.update(sum(map(len, ids)), note="signed")

    def read(columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        with pa.memory_map(str(path)) as file, pa.ipc.open_file(file) as batches:
            for number in range(batches.num_record_batches):
                yield batches.get_batch(number).select(list(columns))

    return read, pa.chunked_array(ids, type=pa.string())


def _leaving(remove: Path | None, ids: pa.ChunkedArray, live: pa.ChunkedArray) -> list[str]:
    """Ids that leave: those listed, and those that come again with another text. Raises BuildError for a stranger."""
    again = live.filter(pc.is_in(live, value_set=ids)).to_pylist()
    if remove is None:
        return again
    try:
        lines = remove.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise_machine_fault(error)
        raise BuildError(f"{remove} cannot be read as a list of ids, one per line: {error}") from error
    listed = {line: number for number, line in enumerate(lines, 1) if line}
    known = pc.is_in(pa.array(listed, type=pa.string()), value_set=live).to_pylist()
    strangers = [(line, number) for (line, number), is_live in zip(listed.items(), known, strict=True) if not is_live]
    if strangers:
        name, number = strangers[0]
        raise BuildError(
            f"{remove} line {number}: {name!r} is not among the live documents of the state "
            f"({len(strangers)} such lines); remove only what an earlier call has read"
        )
    return sorted({*again, *listed})


@dataclass(frozen=True)
class _Kept:
    """What a state folder holds."""

    files: tuple[str, ...]
    decisions: pa.Table
    pairs: pa.Table

    @classmethod
    def read(cls, folder: Path, signing: SignatureRecipe) -> _Kept:
        path = folder / "current.json"
        if not path.exists():
            return cls((), DUPLICATES.empty_table(), DUPLICATE_PAIRS.empty_table())
        try:
            found: dict[str, Any] = json.loads(path.read_bytes())
            tables = [pq.read_table(folder / found[name]) for name in ("decisions", "pairs")]
            files, made_with = tuple(found["files"]), found["signatures"]
        except (OSError, ValueError, KeyError) as error:
            raise_machine_fault(error)
            raise BuildError(
                f"{path} does not describe a dedup state ({error!r}); start with an empty folder"
            ) from error
        if made_with != signing.model_dump():
            raise BuildError(
                f"{folder} was made with [signatures] {made_with}, this call has {signing.model_dump()}: signatures "
                "of different settings cannot be compared; start with an empty folder"
            )
        return cls(files, *tables)


@contextmanager
def _locked(folder: Path) -> Iterator[Path]:
    """The state folder, for one call at a time, without what a call that died left in it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BuildError(f"{folder} is in use by another call: wait for it, or give each its own folder") from None
        _clean(folder)
        yield folder
        _clean(folder)


def _clean(folder: Path) -> None:
    """Delete state files that current.json does not name."""
    current = folder / "current.json"
    named = {"lock", "current.json"}
    if current.exists():
        found = json.loads(current.read_bytes())
        named |= {*found["files"], found["decisions"], found["pairs"]}
    for path in sorted((folder / "state").rglob("*"), reverse=True):
        if path.is_dir():
            if not any(path.iterdir()):
                path.rmdir()
        elif path.relative_to(folder).as_posix() not in named:
            path.unlink()


def _keep(folder: Path, decisions: pa.Table, pairs: pa.Table, files: Sequence[str], signing: SignatureRecipe) -> None:
    """Make this the state: all files on disk first, then the one that names them, by rename."""
    manifest = next(name for name in files if name.endswith("/manifest.json"))
    tables = folder / Path(manifest).parent
    named = {
        "decisions": write_table(tables, "decisions", decisions, DUPLICATES),
        "pairs": write_table(tables, "pairs", pairs, DUPLICATE_PAIRS),
    }
    for path in [*(folder / name for name in files), *named.values()]:
        _sync(path)
        _sync(path.parent)
    current: dict[str, Any] = {name: path.relative_to(folder).as_posix() for name, path in named.items()}
    current |= {"files": sorted(files), "signatures": signing.model_dump()}
    new = folder / "current.json.new"
    new.write_text(json.dumps(current, indent=1) + "\n", encoding="utf-8")
    _sync(new)
    os.replace(new, folder / "current.json")
    _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _applied(table: pa.Table, changes: Changes, key: list[str]) -> pa.Table:
    """The table after the changes, sorted by its key."""
    if len(changes.removed):
        table = table.join(changes.removed.select(key), keys=key, join_type="left anti")
    return pa.concat_tables([table, changes.added]).sort_by([(name, "ascending") for name in key])


def read_jsonl(source: Path) -> Iterator[tuple[str, str]]:
    """(id, text) of every line; ids must be unique over all files."""
    import orjson

    files = sorted(source.glob("*.jsonl")) if source.is_dir() else [source]
    if not files or not files[0].is_file():
        raise BuildError(f"{source} is neither a JSONL file nor a folder of *.jsonl files")
    seen: set[str] = set()
    for path in files:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    row = exact_json(line)
                    doc_id, text = row["id"], row["text"]
                except (orjson.JSONDecodeError, KeyError, TypeError) as error:
                    raise BuildError(f"{path} line {number}: needs an object with id and text ({error!r})") from error
                if not isinstance(text, str):
                    raise BuildError(f"{path} line {number}: text must be a string, it is {type(text).__name__}")
                if not isinstance(doc_id, str | int) or isinstance(doc_id, bool):
                    raise BuildError(f"{path} line {number}: id must be a text or a whole number, it is {doc_id!r:.60}")
                doc_id = str(doc_id)
                if doc_id in seen or any(character in doc_id for character in SPARED):
                    raise BuildError(f"{path} line {number}: id {doc_id!r} is used twice or holds a tab or line break")
                seen.add(doc_id)
                yield doc_id, text


def _write_lines(path: Path, lines: Iterator[str]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)
