"""Contamination: documents that contain evaluation items.

Items and documents are compared in the normal form of dedup. A long item is cut into n-grams (13
words, or 20 characters of Chinese and its like): a document is contaminated when it holds at least
`threshold` of the item's distinct n-grams. An item shorter than one n-gram must occur whole. Items
under a minimum length are not searched for at all and counted as such: "2 + 2 = 4" stands in
thousands of innocent pages, so a score on it cannot be protected by dropping them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from assets.build import BuildError
from assets.dedup.shingling import Hashes, character_hashes, is_unspaced, normalise, window_hashes, word_hashes
from assets.evaluation.items import EvaluationItem, load_items
from assets.schemas import CONTAMINATION

_PUNCTUATION = re.compile(r"[\W_]+")
_HINT_MASK = np.uint64(0xFFFF)


class ContaminationRecipe(BaseModel):
    """`[contamination]`: how much of an item a document may hold."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    word_ngram: int = Field(default=13, ge=1)
    """Words, as in GPT-3's decontamination."""
    character_ngram: int = Field(default=20, ge=1)
    """Characters in Chinese and its like: about 13 words."""
    threshold: float = Field(default=0.5, gt=0, le=1)
    """Share of an item's n-grams. Half: a quoted question alone is no leak of a long item, most of one is."""
    minimum_characters: int = Field(default=24, ge=1)
    """Shorter items in spaced scripts are not searched for (assumption: about five words, not measured)."""
    minimum_characters_unspaced: int = Field(default=8, ge=1)
    """The same for Chinese and its like, where a character says about three times as much."""
    extra_items: dict[str, str] = Field(default_factory=dict)
    """Further JSONL files of {"id", "set", "language", "text"} -> SHA-256 of the file: benchmarks that the corpus
    must not hold. The hash is part of the recipe, so that new items make the decisions stale."""


@dataclass(frozen=True)
class Hit:
    """The item of which a document holds most."""

    item: EvaluationItem
    overlap: float


class ItemIndex:
    """N-grams of all items, inverted: hash -> items, grouped by (kind of token, length of n-gram)."""

    def __init__(self, items: Sequence[EvaluationItem], recipe: ContaminationRecipe) -> None:
        self.items = list(items)
        self.too_short: list[EvaluationItem] = []
        self._threshold = recipe.threshold
        self._total = np.zeros(len(self.items), dtype=np.int64)
        entries: dict[tuple[bool, int], list[tuple[int, int]]] = {}
        for number, item in enumerate(self.items):
            normal = normalise(item.text)
            unspaced = is_unspaced(normal)
            tokens = _tokens(normal, unspaced)
            minimum = recipe.minimum_characters_unspaced if unspaced else recipe.minimum_characters
            if len(normal.replace(" ", "") if unspaced else normal) < minimum or not len(tokens):
                self.too_short.append(item)
                continue
            size = min(recipe.character_ngram if unspaced else recipe.word_ngram, len(tokens))
            grams = np.unique(window_hashes(tokens, size)).tolist()
            self._total[number] = len(grams)
            entries.setdefault((unspaced, size), []).extend((gram, number) for gram in grams)
        self._tables: dict[tuple[bool, int], tuple[Hashes, np.ndarray]] = {}
        self._hints: dict[tuple[bool, int], npt.NDArray[np.bool_]] = {}
        for key, rows in sorted(entries.items()):
            rows.sort()
            hashes = np.array([gram for gram, _ in rows], dtype=np.uint64)
            self._tables[key] = (hashes, np.array([number for _, number in rows], dtype=np.int64))
            self._hints[key] = np.zeros(int(_HINT_MASK) + 1, dtype=bool)
            self._hints[key][hashes & _HINT_MASK] = True

    def worst(self, text: str) -> Hit | None:
        """The item the document holds most of, if that reaches the threshold; ties: the first item."""
        if not self._tables:
            return None
        normal = normalise(text)
        tokens: dict[bool, Hashes] = {}
        found = np.zeros(len(self.items), dtype=np.int64)
        for (unspaced, size), (hashes, owners) in self._tables.items():
            if unspaced and normal.isascii():
                continue
            if unspaced not in tokens:
                tokens[unspaced] = _tokens(normal, unspaced)
            if len(tokens[unspaced]) < size:
                continue
            windows = window_hashes(tokens[unspaced], size)
            # Nearly all windows are in no item: one look at 16 of their bits spares the search for them.
            windows = windows[self._hints[unspaced, size][windows & _HINT_MASK]]
            if len(windows):
                present = np.intersect1d(windows, hashes)  # distinct: an n-gram counts once, however often it occurs
                np.add.at(found, owners[np.isin(hashes, present)], 1)
        if not found.any():
            return None
        share = found / np.maximum(self._total, 1)
        best = int(share.argmax())
        return Hit(self.items[best], float(share[best])) if share[best] >= self._threshold else None

    def stats(self, decisions: pa.Table) -> dict[str, Any]:
        """Items and decisions, and how many searchable items are not recognised when planted in a text."""
        searched = [item for item, total in zip(self.items, self._total, strict=True) if total]
        hosts = ("Planted before. {} Planted after.", "前文在此。{}后文在此。")
        lost = sum(self.worst(host.format(item.text)) is None for item in searched for host in hosts)
        return {
            "items": len(self.items),
            "items_searched": len(searched),
            "items_too_short": len(self.too_short),
            "items_not_recognised": lost,
            "contaminated_by_set": dict(sorted(Counter(decisions["evaluation_set"].to_pylist()).items())),
        }


def _tokens(normal: str, unspaced: bool) -> Hashes:
    """Tokens to compare. Punctuation does not count in either kind: a quoted item may end in another mark."""
    if not unspaced:
        return word_hashes(normal)
    return character_hashes(_PUNCTUATION.sub("", normal))


def read_items(recipe: ContaminationRecipe) -> list[EvaluationItem]:
    """Our own items and those of the recipe's extra files, sorted by (set, id)."""
    items = list(load_items())
    for name, expected in sorted(recipe.extra_items.items()):
        path = Path(name)
        if not path.is_file():
            raise BuildError(f"[contamination] extra_items names {name!r}, which is not a file: correct the path")
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != expected:
            raise BuildError(
                f"[contamination] extra_items: {name} has SHA-256 {found}, the recipe says {expected}: correct it"
            )
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            try:
                row = json.loads(line)
                items.append(EvaluationItem(str(row["id"]), str(row["set"]), str(row["language"]), str(row["text"])))
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise BuildError(
                    f"{name} line {number}: each line must be an object with id, set, language and text ({error!r})"
                ) from error
    items.sort(key=lambda item: (item.set, item.id))
    for before, after in pairwise(items):
        if (before.set, before.id) == (after.set, after.id):
            raise BuildError(f"evaluation item {after.set}/{after.id} is there twice; ids must be unique in a set")
    return items


def items_sha256(items: Sequence[EvaluationItem]) -> str:
    """Identity of the items, recorded with the decisions."""
    rows = [[item.set, item.id, item.language, item.text] for item in items]
    return hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()


def find_contaminated(documents: Iterable[tuple[str, str]], index: ItemIndex) -> dict[str, Hit]:
    """doc_id -> worst item, of the contaminated documents among `(doc_id, text)`."""
    hits = ((doc_id, index.worst(text)) for doc_id, text in documents)
    return {doc_id: hit for doc_id, hit in hits if hit is not None}


def decision_table(hits: dict[str, Hit]) -> pa.Table:
    """One row per contaminated document, sorted by doc_id."""
    rows = [
        {
            "doc_id": doc_id,
            "evaluation_set": hit.item.set,
            "item_id": hit.item.id,
            "overlap": hit.overlap,
            "drop_reason": "contaminated",
        }
        for doc_id, hit in sorted(hits.items())
    ]
    return pa.Table.from_pylist(rows, schema=CONTAMINATION)
