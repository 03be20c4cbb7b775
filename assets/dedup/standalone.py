"""Deduplication of plain files with the code of the graph, for people who want this one stage.

Input: JSONL of {"id", "text"}, a file or a folder of *.jsonl. Output: `clusters.tsv`, one line
`id<TAB>kept_id` per input document, sorted by id, and `pairs.tsv` with the proof of each duplicate.
Without qualities and crawl times the representative of a cluster is its smallest id.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from assets.build import BuildError, Progress, SilentProgress
from assets.dedup.clusters import DedupRecipe, cluster_documents
from assets.dedup.signatures import SignatureRecipe, signature_parts

SPARED = ("\t", "\n", "\r")
"""Characters that an id cannot hold: they would break the lines of clusters.tsv."""


@dataclass(frozen=True)
class Summary:
    """What `deduplicate` did."""

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
) -> Summary:
    """Write clusters.tsv and pairs.tsv into `output`."""
    progress = progress or SilentProgress()
    parts: list[pa.Table] = []
    for part in signature_parts(read_jsonl(source), signatures or SignatureRecipe()):
        parts.append(part)
        progress.update(sum(map(len, parts)), note="signed")

    def read(columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        for part in parts:
            yield from part.select(columns).to_batches(max_chunksize=4096)

    ids = pa.concat_tables(part.select(["doc_id"]) for part in parts)["doc_id"]
    alike = {"quality": pa.repeat(0.0, len(ids)), "crawled_at": pa.repeat("", len(ids))}
    found = cluster_documents(pa.table({"doc_id": ids} | alike), read, dedup or DedupRecipe(), "text")

    output.mkdir(parents=True, exist_ok=True)
    columns = (found.decisions[name].to_pylist() for name in ("doc_id", "representative"))
    _write_lines(output / "clusters.tsv", (f"{one}\t{kept}" for one, kept in zip(*columns, strict=True)))
    rows = found.pairs.to_pylist()
    lines = (f"{r['doc_id_a']}\t{r['doc_id_b']}\t{r['similarity']:.6f}\t{r['method']}" for r in rows)
    _write_lines(output / "pairs.tsv", lines)
    exact, near = found.stats["exact_duplicates"], found.stats["near_duplicates"]
    return Summary(len(ids), len(ids) - exact - near, exact, near)


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
                    row = orjson.loads(line)
                    doc_id, text = row["id"], row["text"]
                except (orjson.JSONDecodeError, KeyError, TypeError) as error:
                    raise BuildError(f"{path} line {number}: needs an object with id and text ({error!r})") from error
                if not isinstance(text, str):
                    raise BuildError(f"{path} line {number}: text must be a string, it is {type(text).__name__}")
                doc_id = str(doc_id)
                if doc_id in seen or any(character in doc_id for character in SPARED):
                    raise BuildError(f"{path} line {number}: id {doc_id!r} is used twice or holds a tab or line break")
                seen.add(doc_id)
                yield doc_id, text


def _write_lines(path: Path, lines: Iterator[str]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)
