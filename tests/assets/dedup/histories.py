"""A deduplicated collection with a history, and what brute force says of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow as pa

from assets.dedup.clustering.engine import ClusterUpdate, update_clusters
from assets.dedup.clustering.ids import IdKind
from assets.dedup.recipe import DedupRecipe
from assets.dedup.signatures import SignatureRecipe, sign
from assets.delta_table import Changes
from tests.assets.dedup.from_scratch import cluster_documents


@dataclass(frozen=True)
class Doc:
    """One live document: its text and what ranks it."""

    text: str
    quality: float = 0.5
    crawled_at: str = "20260101T000000Z"


@dataclass
class Signed:
    """Signatures of texts, computed once; a reader for any documents that hold them."""

    rows: dict[str, dict] = field(default_factory=dict)

    def add(self, texts: Sequence[str]) -> None:
        """Sign texts that are not yet."""
        new = sorted(set(texts) - set(self.rows))
        signed = sign(((f"{number:09d}", text) for number, text in enumerate(new)), SignatureRecipe())
        self.rows |= dict(zip(new, signed.to_pylist(), strict=True))
        self.schema = signed.schema

    def reader(self, docs: Mapping[str, Doc], batch: int = 7):
        """A SignatureReader of some documents, in the order of the mapping."""
        self.add([doc.text for doc in docs.values()])
        rows = [self.rows[doc.text] | {"doc_id": doc_id} for doc_id, doc in docs.items()]
        table = pa.Table.from_pylist(rows, schema=self.schema)

        def read(columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
            yield from table.select(list(columns)).to_batches(max_chunksize=batch)

        return read


def document_table(docs: Mapping[str, Doc]) -> pa.Table:
    """doc_id, quality, crawled_at."""
    return pa.table(
        {
            "doc_id": pa.array(list(docs), pa.string()),
            "quality": pa.array([doc.quality for doc in docs.values()], pa.float64()),
            "crawled_at": pa.array([doc.crawled_at for doc in docs.values()], pa.string()),
        }
    )


class Collection:
    """Live documents, the state files and the two tables, kept by updates alone."""

    def __init__(self, folder: Path, recipe: DedupRecipe, signed: Signed, ids: IdKind = "text") -> None:
        self.folder, self.recipe, self.signed = folder, recipe, signed
        self.ids: IdKind = ids
        self.docs: dict[str, Doc] = {}
        self.state: dict[str, Path] = {}
        self.decisions: dict[str, dict] = {}
        self.pairs: dict[tuple[str, str], dict] = {}
        self.updates = 0

    def update(self, removed: Sequence[str], added: Mapping[str, Doc]) -> ClusterUpdate:
        """Apply one update, and its changes to the tables: every removed row must be there as it says."""
        output = self.folder / f"{self.updates:04d}"
        self.updates += 1
        found = update_clusters(
            self.state, document_table(added), removed, self.signed.reader(added), self.recipe, output, ids=self.ids
        )
        assert not set(found.kept_files) & set(found.new_files)
        assert not set(found.new_files) & set(self.state), "a name was used again"
        files = {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()}
        assert files == set(found.new_files)
        self.state = {name: self.state[name] for name in found.kept_files}
        self.state |= {name: output / name for name in found.new_files}
        for doc_id in removed:
            del self.docs[doc_id]
        assert not set(added) & set(self.docs)
        self.docs |= added
        _apply(self.decisions, found.decisions, lambda row: row["doc_id"])
        _apply(self.pairs, found.pairs, lambda row: (row["doc_id_a"], row["doc_id_b"]))
        return found

    def tables(self) -> tuple[list[dict], list[dict]]:
        """Decisions and pairs, sorted."""
        return [self.decisions[key] for key in sorted(self.decisions)], [self.pairs[key] for key in sorted(self.pairs)]

    def from_scratch(self) -> tuple[list[dict], list[dict]]:
        """The same by one run over the live documents."""
        found = cluster_documents(document_table(self.docs), self.signed.reader(self.docs), self.recipe, self.ids)
        return found.decisions.to_pylist(), found.pairs.to_pylist()


def _apply(rows: dict[Any, dict], changes: Changes, key: Callable[[dict], Any]) -> None:
    before = {key(row): row for row in changes.removed.to_pylist()}
    after = {key(row): row for row in changes.added.to_pylist()}
    assert list(after) == sorted(after) and list(before) == sorted(before)
    for name, row in before.items():
        assert rows.pop(name) == row
        assert after.get(name) != row, "a row that did not change"
    assert not set(after) & set(rows)
    rows.update(after)


def words_of(text: str) -> frozenset[tuple[str, ...]]:
    """Word 5-grams of an English text without its punctuation."""
    words = "".join(c if c.isalnum() or c.isspace() else " " for c in text.lower()).split()
    return frozenset(tuple(words[at : at + 5]) for at in range(max(1, len(words) - 4)))


def brute_force(docs: Mapping[str, Doc], threshold: float) -> tuple[list[dict], list[dict]]:
    """Decisions and pairs by comparing all with all. Shares no code with what it judges."""
    grams = {doc_id: words_of(doc.text) for doc_id, doc in docs.items()}
    like: dict[str, dict[str, float]] = {doc_id: {} for doc_id in docs}
    for a, b in combinations(docs, 2):
        shared = len(grams[a] & grams[b])
        similarity = shared / (len(grams[a]) + len(grams[b]) - shared)
        if similarity >= threshold:
            like[a][b] = like[b][a] = similarity

    def preference(doc_id: str) -> tuple:
        return (-docs[doc_id].quality, docs[doc_id].crawled_at, doc_id)

    decisions, pairs, seen = [], [], set()
    for start in docs:
        if start in seen:
            continue
        members, queue = {start}, [start]
        while queue:
            for other in like[queue.pop()]:
                if other not in members:
                    members.add(other)
                    queue.append(other)
        seen |= members
        best = min(members, key=preference)
        match: dict[str, str] = {doc_id: best for doc_id in members if doc_id == best or best in like[doc_id]}
        while len(match) < len(members):
            nearer = {}
            for doc_id in members - set(match):
                # Documents of one shingle set count as one, which stands by its best document.
                choices = [(-like[doc_id][other], preference(other), other) for other in like[doc_id] if other in match]
                if choices:
                    nearer[doc_id] = min(choices)[2]
            match |= nearer
        for doc_id in members:
            row = {"doc_id": doc_id, "cluster_id": min(members), "representative": best, "kept": doc_id == best}
            row |= {"drop_reason": None, "matched_doc_id": None, "similarity": None, "method": None}
            if doc_id != best:
                other = match[doc_id]
                exact = " ".join(docs[doc_id].text.lower().split()) == " ".join(docs[other].text.lower().split())
                method = "exact_text" if exact else "minhash_jaccard"
                reason = "exact_duplicate" if exact else "near_duplicate"
                row |= {"drop_reason": reason, "matched_doc_id": other, "similarity": like[doc_id][other]}
                row |= {"method": method}
                a, b = sorted((doc_id, other))
                pairs.append({"doc_id_a": a, "doc_id_b": b, "similarity": like[doc_id][other], "method": method})
            decisions.append(row)
    return (
        sorted(decisions, key=lambda row: row["doc_id"]),
        sorted(pairs, key=lambda row: (row["doc_id_a"], row["doc_id_b"])),
    )
