"""Scores per checkpoint of the newest run, for the terminal: with their intervals, above what guessing scores."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

from rich.table import Table

from orchestration.cli.render import tables
from orchestration.identity.catalog import Catalog, segment
from orchestration.store.contract import VersionedStore

Z_95 = NormalDist().inv_cdf(0.975)
LANGUAGES = ("zh", "en", "code")
PROBES_CHANCE = 0.5
"""A probe is passed when the target beats one contrast: a coin passes half of them."""


@dataclass(frozen=True)
class Share:
    """A share of passed items with its 95% interval. `of` counts what is independent."""

    value: float
    of: int
    low: float
    high: float

    @classmethod
    def over(cls, flags: Iterable[tuple[str, bool]]) -> Share | None:
        """Share of (item, passed). Several answers to one item are not independent: the interval is as wide as if they
        were one answer."""
        pairs = list(flags)
        if not pairs:
            return None
        value, items = sum(passed for _, passed in pairs) / len(pairs), len({item for item, _ in pairs})
        return cls(value, items, *wilson(value, items))


def wilson(share: float, of: int) -> tuple[float, float]:
    """The 95% interval of Wilson (1927), which holds for a handful of items and for shares of 0 and 1."""
    weight = 1 + Z_95**2 / of
    middle = (share + Z_95**2 / (2 * of)) / weight
    half = Z_95 / weight * math.sqrt(share * (1 - share) / of + Z_95**2 / (4 * of**2))
    return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True)
class Scores:
    """What is known of the newest run: a row per checkpoint, and what a model that learned nothing scores."""

    run: str
    rows: list[dict[str, Any]]
    baseline: dict[str, Any]
    heldout: dict[str, int]
    control: float | None
    """Needles "found" by the last checkpoint where there is no needle."""

    def as_json(self) -> dict[str, Any]:
        """The same for programs."""

        def plain(row: Mapping[str, Any]) -> dict[str, Any]:
            return {name: asdict(value) if isinstance(value, Share) else value for name, value in row.items()}

        content = {"scores": [plain(row) for row in self.rows], "baseline": self.baseline, "heldout": self.heldout}
        return content | {"needles found without needle": self.control}


def checkpoint_scores(store: VersionedStore, catalog: Catalog) -> Scores | None:
    """Held-out loss and bits per byte, probes and needles of every checkpoint; None before the first evaluation."""
    runs = catalog.partitions("perplexity")
    if not runs:
        return None
    run = max(runs, key=lambda key: key.partition("@")[2])

    def rows(asset: str, table: str) -> list[dict[str, Any]]:
        manifest = catalog.get(asset, run)
        return segment(store, catalog.commit, manifest).table(table).to_pylist() if manifest else []

    perplexity = rows("perplexity", "perplexity")
    probes, needles = rows("probability_probes", "probes"), rows("needle_in_haystack", "needles")
    scores = []
    for row in (r for r in perplexity if r["language"] == "all" and r["domain"] == "all"):
        step = row["step"]
        score: dict[str, Any] = {"run": run, "step": step, "tokens seen": row["tokens_seen"], "loss": row["loss"]}
        score |= _bits(perplexity, step, lambda cell: cell["bits_per_byte"])
        asked = [p for p in probes if p["step"] == step and p["passed"] is not None]
        score["probes passed"] = Share.over((p["probe_id"], p["passed"]) for p in asked)
        score["needles found"] = Share.over((n["needle"], n["found"]) for n in needles if n["step"] == step)
        scores.append(score)
    last = max((r for r in perplexity if r["language"] == "all"), key=lambda r: r["step"])
    statistics = (catalog.get("needle_in_haystack", run) or {}).get("report", {}).get("stats", {})
    baseline = {"loss": last["unigram_loss"]} | _bits(perplexity, last["step"], _unigram_bits)
    baseline |= {"probes passed": PROBES_CHANCE, "needles found": statistics.get("chance")}
    heldout = {"documents": last["documents"], "tokens": last["tokens"]}
    return Scores(run, scores, baseline, heldout, statistics.get("control_rate"))


def _bits(perplexity: Sequence[Mapping[str, Any]], step: int, figure: Any) -> dict[str, float | None]:
    """Bits per byte of everything and of each language, at one step."""
    found = {r["language"]: figure(r) for r in perplexity if (r["step"], r["domain"]) == (step, "all")}
    named = {"bits/byte": found.get("all")}
    return named | {f"bits/byte {language}": found.get(language) for language in LANGUAGES}


def _unigram_bits(cell: Mapping[str, Any]) -> float:
    return cell["unigram_loss"] * cell["tokens"] / math.log(2) / cell["utf8_bytes"]


def score_table(scores: Scores) -> Table:
    """A row per checkpoint, and below them what is reached without having learned anything."""
    columns = [column for column in scores.rows[0] if column != "run"]
    grid = tables.table(f"\nScores of {scores.run}", *columns, numbers=columns)
    for row in scores.rows:
        grid.add_row(*(_shown(row[column]) for column in columns))
    grid.add_section()
    baseline: dict[str, Any] = {"step": "[dim]baseline[/]"} | scores.baseline
    grid.add_row(*(_shown(baseline.get(column)) for column in columns))
    return grid


def notes(scores: Scores) -> list[str]:
    """How to read the table."""
    last = scores.rows[-1]
    measured = f"{scores.heldout['documents']:,} held-out documents, {scores.heldout['tokens']:,} tokens"
    lines = [
        f"Baseline: loss and bits/byte of a unigram model; probes and needles by guessing. Measured on {measured}."
    ]
    counted = [
        f"{last[name].of} {what}"
        for name, what in (("probes passed", "probes"), ("needles found", "facts"))
        if last.get(name)
    ]
    if counted:
        lines.append(f"In brackets: 95% intervals (Wilson) over {' and '.join(counted)}.")
    within = [
        name
        for name, chance in scores.baseline.items()
        if isinstance(last.get(name), Share) and chance is not None and last[name].low <= chance <= last[name].high
    ]
    if within:
        lines.append(f"Step {last['step']:,} cannot be told from guessing by: {', '.join(within)}.")
    if scores.control is not None:
        lines.append(f'Without the needle in the text, step {last["step"]:,} "finds" {scores.control:.3f} of them.')
    return lines


def _shown(value: Any) -> str:
    if isinstance(value, Share):
        return f"{value.value:.3f} ({value.low:.2f}-{value.high:.2f})"
    if isinstance(value, float):
        return f"{value:,.3f}"
    return "" if value is None else f"{value:,}" if isinstance(value, int) else value
