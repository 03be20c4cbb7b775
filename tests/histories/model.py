"""What must be true after a history, from the history alone: a dict of pages and brute force over their texts.

It knows the rules of the documentation and none of the code: which pages are live, why a document was
dropped, which live documents are the same text.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from tests.histories.world import RECIPES, SOURCES, History, page_url, render

SURE = 0.92
"""A pair this close is certainly found: at 0.92 LSH of 18 bands of 6 rows misses one pair in 10 million."""


@dataclass
class Page:
    """A live page: its content as last seen, and crawls that missed it since."""

    content: str
    missed: int = 0


@dataclass
class Expected:
    """What the tables must say."""

    live: dict[tuple[str, str], str]
    """(source, url) -> content."""
    fates: dict[tuple[str, str], tuple[str, str] | None]
    """Of each live page: (stage, reason) that drops it before dedup; None when dedup sees it."""
    same: list[tuple[tuple[str, str], tuple[str, str]]] = field(default_factory=list)
    """Pairs of live kept pages that must be in one cluster."""
    linked: set[frozenset[tuple[str, str]]] = field(default_factory=set)
    """Pairs at or above the threshold: a cluster is connected by these alone."""
    ever: int = 0
    """Distinct documents ever extracted."""


def recipe_after(history: History) -> dict[str, Any]:
    """ "table.key" -> value after the last night."""
    recipe = {key: values[0] for key, values in RECIPES.items()}
    return recipe | {key: value for night in history.nights for key, value in night.recipe}


def expect(history: History) -> Expected:
    """Replay a history in memory."""
    recipe = recipe_after(history)
    on_disk: dict[str, dict[int, str]] = {source: {} for source in SOURCES}
    pages: dict[str, dict[int, Page]] = {source: {} for source in SOURCES}
    ever: set[tuple[str, int, bytes]] = set()
    for night in history.nights:
        for source, slot, content in night.changes:
            if content is None:
                on_disk[source].pop(slot, None)
            else:
                on_disk[source][slot] = content
        for source in night.crawl:
            failing = {slot for failing_source, slot in night.fails if failing_source == source}
            seen = {slot: "" if slot in failing else content for slot, content in on_disk[source].items()}
            ever |= _crawl(source, pages[source], seen, recipe["delta.missing_crawls"])
    live = {
        (source, page_url(source, slot)): page.content for source, held in pages.items() for slot, page in held.items()
    }
    expected = Expected(live, {page: _fate(content, recipe) for page, content in live.items()}, ever=len(ever))
    _pairs(expected, recipe["dedup.threshold"])
    return expected


def _crawl(
    source: str, held: dict[int, Page], seen: dict[int, str], missing_crawls: int
) -> set[tuple[str, int, bytes]]:
    """One night of one source; the documents that are extracted. Two names of the same bytes are no change."""
    new = set()
    for slot, content in seen.items():
        if content == "":
            if slot in held:
                held[slot].missed = 0
        elif slot not in held or _bytes(source, held[slot].content) != _bytes(source, content):
            held[slot] = Page(content)
            new.add((source, slot, _bytes(source, content)))
        else:
            held[slot].missed = 0
    for slot in [slot for slot in held if slot not in seen]:
        held[slot].missed += 1
        if held[slot].missed >= missing_crawls:
            del held[slot]
    return new


def _bytes(source: str, content: str) -> bytes:
    return render(content, SOURCES[source])


def _fate(content: str, recipe: dict[str, Any]) -> tuple[str, str] | None:
    kind = content.split()[0]
    if kind == "binary":
        return ("extraction", "not_text")
    if kind == "fr":
        return ("filters", "language_not_wanted")
    if kind in ("en", "short", "item"):
        characters = len(render(content, "text").decode())
        if characters < recipe["filters.en.min_characters"]:
            return ("filters", "too_short")
    return None


def _pairs(expected: Expected, threshold: float) -> None:
    texts = {page: shingles(expected.live[page]) for page, fate in expected.fates.items() if fate is None}
    for one, other in combinations(sorted(texts), 2):
        common = len(texts[one] & texts[other])
        similarity = common / (len(texts[one]) + len(texts[other]) - common)
        if similarity >= SURE:
            expected.same.append((one, other))
        if similarity >= threshold:
            expected.linked.add(frozenset((one, other)))


def shingles(content: str) -> set[Any]:
    """Word 5-grams, or character 5-grams in Chinese."""
    text = render(content, "text").decode().lower()
    units = re.findall(r"\S", text) if content.startswith("zh") else re.findall(r"\w+", text)
    return {tuple(units[i : i + 5]) for i in range(len(units) - 4)}


def problems(
    expected: Expected, decisions: list[dict[str, Any]], clusters: list[dict[str, Any]], corpus: list[dict[str, Any]]
) -> list[str]:
    """Where the published tables and the model differ, in words."""
    found = []
    rows = {(row["source"], row["url"]): row for row in decisions if row["live"]}
    if set(rows) != set(expected.live):
        found.append(f"live pages: {sorted(set(rows) ^ set(expected.live))} are live in one of corpus and model")
    if len(decisions) != expected.ever:
        found.append(f"{len(decisions)} documents have a fate, {expected.ever} were ever extracted")
    for page, fate in expected.fates.items():
        row = rows.get(page)
        if row and fate and (row["stage"], row["drop_reason"]) != fate:
            found.append(f"{page} ({expected.live[page]}): {row['stage']}/{row['drop_reason']}, expected {fate}")
        if row and fate is None and row["stage"] in ("extraction", "filters", "sources"):
            found.append(f"{page} ({expected.live[page]}): dropped by {row['stage']}/{row['drop_reason']}")
    in_corpus = {(row["source"], row["url"]) for row in corpus}
    named = {page for page, row in rows.items() if row["stage"] is None}
    if in_corpus != named:
        found.append(f"corpus and decisions differ on {sorted(in_corpus ^ named)}")
    return found + _cluster_problems(expected, rows, clusters)


def _cluster_problems(
    expected: Expected, rows: dict[tuple[str, str], dict[str, Any]], clusters: list[dict[str, Any]]
) -> list[str]:
    found = []
    pages = {row["doc_id"]: page for page, row in rows.items()}
    cluster_of = {pages[row["doc_id"]]: row["cluster_id"] for row in clusters if row["doc_id"] in pages}
    wanted = {page for page, fate in expected.fates.items() if fate is None}
    if set(cluster_of) != wanted or len(clusters) != len(wanted):
        return [f"duplicate_clusters decides {len(clusters)} documents, {len(wanted)} are live and kept"]
    for one, other in expected.same:
        if cluster_of[one] != cluster_of[other]:
            found.append(f"{one} and {other} are near-duplicates in two clusters")
    members: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for page, cluster in cluster_of.items():
        members[cluster].add(page)
    kept = defaultdict(int)
    for row in clusters:
        kept[row["cluster_id"]] += row["kept"]
    for cluster, group in members.items():
        if kept[cluster] != 1:
            found.append(f"cluster {cluster} of {sorted(group)} keeps {kept[cluster]}")
        if not _connected(group, expected.linked):
            found.append(f"cluster {sorted(group)} is not connected by near-duplicates")
    return found


def _connected(group: set[tuple[str, str]], linked: set[frozenset[tuple[str, str]]]) -> bool:
    reached, waiting = set(), [min(group)]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        waiting += [other for other in group - reached if frozenset((page, other)) in linked]
    return reached == group
