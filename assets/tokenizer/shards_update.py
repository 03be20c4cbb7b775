"""What an update does to token shards: which documents leave, which come, which shards are rewritten."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from assets.build import Build, Segment
from assets.delta_table import Changes, keys
from assets.schemas import TOKEN_INDEX
from assets.tokenizer.shards import ENCODING_FILE, Shard, ShardWriter, read_shards_file, read_tokens

_WHERE = ("doc_id", "crawl")


@dataclass(frozen=True)
class ShardPlan:
    """Documents to encode (doc_id, crawl), index rows that go, rows whose tokens move, and shards that stay."""

    base: Segment | None
    come: pa.Table
    gone: pa.Table
    moved: pa.Table
    kept: dict[str, Shard]
    first_number: int


def plan_shards(build: Build, encoding: Mapping[str, object], max_tokens: int, max_dead_share: float) -> ShardPlan:
    """An update of the accepted version where it was made from the same texts and tokenizer, else everything anew."""
    changes = build.changes("corpus", "documents")
    base = build.base.segment if build.base else None
    if base is None or changes is None or build.added("extracted_documents") is None:
        return _everything(build)
    if json.loads(base.path(ENCODING_FILE).read_text()) != encoding:
        return _everything(build)
    come, left = _difference(changes)
    gone = base.rows("index", "doc_id", left).cast(TOKEN_INDEX)
    shards = read_shards_file(base)
    for row in gone.select(["shard", "tokens"]).to_pylist():
        shards[row["shard"]].dead += row["tokens"]
    rewritten = {name for name, shard in shards.items() if shard.dead > max_dead_share * shard.tokens}
    rewritten |= _small_tail(shards, rewritten, max_tokens)
    moved = base.rows("index", "shard", pa.array(sorted(rewritten), type=pa.string())).cast(TOKEN_INDEX)
    moved = moved.filter(pc.invert(pc.is_in(moved["doc_id"], value_set=keys(gone, ("doc_id",)))))
    kept = {name: shard for name, shard in shards.items() if name not in rewritten}
    first = 1 + max((_number(name) for name in shards), default=-1)
    return ShardPlan(base, come, gone, moved, kept, first)


def _everything(build: Build) -> ShardPlan:
    documents = build.one("corpus").table("documents", _WHERE)
    nothing = TOKEN_INDEX.empty_table()
    return ShardPlan(None, documents, nothing, nothing, {}, 0)


def _difference(changes: Changes) -> tuple[pa.Table, pa.Array]:
    """(documents whose text is new or comes from another crawl now, doc_ids that left or did)."""
    removed, added = changes.removed.select(_WHERE), changes.added.select(_WHERE)
    before, after = keys(removed, _WHERE), keys(added, _WHERE)
    come = added.filter(pc.invert(pc.is_in(after, value_set=before)))
    gone = removed.filter(pc.invert(pc.is_in(before, value_set=after)))
    return come, keys(gone, ("doc_id",))


def _small_tail(shards: Mapping[str, Shard], rewritten: set[str], max_tokens: int) -> set[str]:
    """The newest shards, back to the first that is over half full or more than twice as large as all after it:
    else the small shard of every night would stay forever."""
    tail: set[str] = set()
    tokens = 0
    for name in sorted(shards, key=_number, reverse=True):
        live = shards[name].tokens - shards[name].dead
        if name in rewritten:
            continue
        if 2 * live > max_tokens or (tokens and live > 2 * tokens):
            break
        tail.add(name)
        tokens += live
    return tail if len(tail) > 1 else set()


def _number(shard: str) -> int:
    return int(shard.removeprefix("shard-").removesuffix(".bin"))


def move_tokens(plan: ShardPlan, writer: ShardWriter, dtype: np.dtype) -> pa.Table:
    """Copy the tokens of the rows that move, each proved by its hash; their new rows."""
    if plan.base is None or not len(plan.moved):
        return TOKEN_INDEX.empty_table()
    rows = plan.moved.sort_by([("shard", "ascending"), ("offset", "ascending")]).to_pylist()
    for row in rows:
        tokens = read_tokens(plan.base, row, dtype)
        row["shard"], row["offset"] = writer.append(tokens.tobytes(), len(tokens))
    return pa.Table.from_pylist(rows, schema=TOKEN_INDEX)
