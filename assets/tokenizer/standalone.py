"""Tokenizing plain files: JSONL of {"id", "text"} and a tokenizer.json into shards and their index, as in token_shards.

Documents lie in the shards in the order of the input; the index finds any of them by id. Its column
`crawl` names the input file.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from assets.build import BuildError, Progress, Segment, SilentProgress
from assets.machine_faults import raise_machine_fault
from assets.plain_files import JSONL_SUFFIXES, Ids, RowGroups, input_files, read_lines
from assets.schemas import TOKEN_INDEX
from assets.tables import schema, write_table
from assets.tokenizer.encoding import load_tokenizer, token_dtype
from assets.tokenizer.shards import (
    ENCODING_FILE,
    SHARD_FILES,
    ShardWriter,
    TokenShardsRecipe,
    encode_into,
    encoding_of,
    write_json,
)
from assets.tokenizer.texts import group_by_crawl, read_texts

TEXTS = schema({"doc_id": pa.string(), "text": pa.string()})
_ROWS = 1024


@dataclass(frozen=True)
class Summary:
    """What `tokenize_files` wrote. `tokens` includes the one that closes each document."""

    documents: int
    characters: int
    tokens: int
    shards: int


def tokenize_files(
    source: Path,
    tokenizer: Path,
    output: Path,
    recipe: TokenShardsRecipe,
    workers: int = 1,
    progress: Progress | None = None,
) -> Summary:
    """Write shard-*.bin, index.parquet and encoding.json into `output`; shards of an earlier call are replaced."""
    progress = progress or SilentProgress()
    _refuse_unreadable(tokenizer)
    files = input_files(source, JSONL_SUFFIXES)
    scratch = output / ".scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    (scratch / "output").mkdir(parents=True)
    try:
        segments, doc_ids, crawls, characters = _segments(files, source, scratch, progress)
        bpe = load_tokenizer(tokenizer)
        write_json(scratch / "output" / ENCODING_FILE, encoding_of(bpe, tokenizer))
        dtype = token_dtype(bpe.get_vocab_size())
        writer = ShardWriter(scratch / "output", dtype, recipe.max_tokens_per_shard)
        texts = read_texts(segments, group_by_crawl(doc_ids, crawls))
        index = encode_into(writer, texts, tokenizer, recipe, workers, progress, len(doc_ids))
        writer.close()
        write_table(scratch / "output", "index", index.sort_by("doc_id"), TOKEN_INDEX)
        shards = sorted(path.name for path in (scratch / "output").glob(SHARD_FILES))
        for old in output.glob(SHARD_FILES):
            old.unlink()
        for name in (*shards, ENCODING_FILE, "index.parquet"):  # the index last: what it names is there
            (scratch / "output" / name).replace(output / name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Summary(len(doc_ids), characters, sum(index["tokens"].to_pylist()), len(shards))


def _refuse_unreadable(tokenizer: Path) -> None:
    if not tokenizer.is_file():
        raise BuildError(f"{tokenizer}: no such file; it must be a tokenizer.json of the tokenizers library")
    try:
        load_tokenizer(tokenizer)
    except Exception as error:  # the library raises bare Exception
        raise_machine_fault(error)
        raise BuildError(f"{tokenizer}: not a tokenizer.json of the tokenizers library: {error}") from None


def _segments(
    files: list[Path], source: Path, scratch: Path, progress: Progress
) -> tuple[list[Segment], list[str], list[str], int]:
    """Each file as a segment, (id, file) of every document, and characters of all."""
    ids, doc_ids, crawls, segments = Ids(), [], [], []
    characters = 0
    root = source if source.is_dir() else source.parent
    for number, path in enumerate(files):
        name = path.relative_to(root).as_posix()
        groups = RowGroups(scratch / f"texts-{number:05d}.parquet", TEXTS, _ROWS, lambda row: len(row["text"]))
        for line in read_lines(path):
            doc_ids.append(ids.new(line.row.get("id"), line.place))
            crawls.append(name)
            text = line.text("text")
            characters += len(text)
            groups.add({"doc_id": doc_ids[-1], "text": text})
        groups.close()
        segments.append(Segment("extracted_documents", name, "", {"documents.parquet": groups.path}))
        progress.update(0, None, f"{len(doc_ids):,} documents read")
    if not doc_ids:
        raise BuildError(f"{source}: holds no document")
    return segments, doc_ids, crawls, characters
