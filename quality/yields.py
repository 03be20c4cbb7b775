"""Yield alarms: a rule that suddenly drops far more, or nothing at all, of a source that it used to treat otherwise.

Per source, stage and drop reason, the share of documents that the reason takes is compared with what was accepted
of the same source before: earlier partitions of an asset of crawls, earlier versions of an asset without partitions
(whose shares are of all live documents). Their median is the usual share; the spread is what both the nights among
themselves (median absolute deviation) and the number of documents (binomial) explain. So a source that always varies
may vary, a small delta may be odd, and a filter that broke shows on the first night.

    jump      further than YIELD_SIGMA spreads and YIELD_POINTS_MINIMUM from the median, up or down
    silence   a rule that took YIELD_USUAL_SHARE or more takes less than a tenth of that
    all gone  nearly everything is dropped, by one rule or by all: also of a first crawl, which has no history

What a person accepted is usual from then on, and so is what was usual before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import median
from typing import Any

from quality.outcome import Check, CheckOutcome, Evidence
from quality.thresholds import (
    YIELD_ALL_SHARE,
    YIELD_DOCUMENTS_MINIMUM,
    YIELD_POINTS_MINIMUM,
    YIELD_SIGMA,
    YIELD_SILENT_DOCUMENTS,
    YIELD_USUAL_SHARE,
)

SHOWN_SAMPLES = 5
SHOWN_HISTORY = 10
_MAD_TO_SIGMA = 1.4826  # of a normal distribution
ALL = "all rules together"

Report = Mapping[str, Any]


@dataclass(frozen=True)
class Alarm:
    """A rule whose yield needs a person."""

    rule: str
    kind: str
    dropped: int
    documents: int
    usual: float | None
    """Median share of the history; None without one."""
    sigma: float
    history: tuple[float, ...]
    """Shares of earlier partitions, oldest first."""

    def __str__(self) -> str:
        share = self.dropped / self.documents
        now = f"{self.rule} drops {share:.1%} ({self.dropped} of {self.documents})"
        if self.usual is None:
            return f"{self.kind}: {now}; the source has no history yet, at most {YIELD_ALL_SHARE:.0%} may go"
        shares = ", ".join(f"{each:.1%}" for each in self.history[-SHOWN_HISTORY:])
        far = f", {self.sigma:.0f} sigma away" if self.kind == "jump" else ""
        return f"{self.kind}: {now}, usually {self.usual:.1%}{far} (accepted before: {shares})"


def alarms(report: Report, history: Sequence[Report]) -> list[Alarm]:
    """Rules of one source that left their history, which is oldest first (`Evidence.yields`, `Evidence.history`)."""
    found = _alarms(report, history)
    accepted = [number for number, each in enumerate(history) if each.get("accepted")]
    if not found or not accepted:
        return found
    since = {alarm.rule for alarm in _alarms(report, history[accepted[-1] :])}
    return [alarm for alarm in found if alarm.rule in since] or (found if since else [])


def _alarms(report: Report, history: Sequence[Report]) -> list[Alarm]:
    documents = report["documents_in"] or 0
    if documents < YIELD_DOCUMENTS_MINIMUM:
        return []
    known = [each for each in history if (each["documents_in"] or 0) >= YIELD_DOCUMENTS_MINIMUM]
    dropped = report["dropped"]
    rules = sorted({*dropped, *(reason for each in known for reason in each["dropped"])})
    found = [_judge(rule, dropped.get(rule, 0), documents, known) for rule in rules]
    total = _judge(ALL, sum(dropped.values()), documents, known)
    wide = [alarm for alarm in found if alarm]
    # The sum says nothing new where a rule of its own explains it.
    return wide or ([total] if total else [])


def _judge(rule: str, count: int, documents: int, known: Sequence[Report]) -> Alarm | None:
    share = count / documents
    shares = tuple(_count(rule, each) / each["documents_in"] for each in known)
    if not shares:
        return Alarm(rule, "all gone", count, documents, None, 0.0, ()) if share > YIELD_ALL_SHARE else None
    usual = median(shares)
    sigma = abs(share - usual) / _spread(usual, shares, documents, known, rule)
    kind = None
    if share > YIELD_ALL_SHARE and usual <= YIELD_ALL_SHARE - YIELD_POINTS_MINIMUM:
        kind = "all gone"
    elif usual >= YIELD_USUAL_SHARE and share < usual / 10 and usual * documents >= YIELD_SILENT_DOCUMENTS:
        kind = "silence"
    elif sigma > YIELD_SIGMA and abs(share - usual) >= YIELD_POINTS_MINIMUM:
        kind = "jump"
    return Alarm(rule, kind, count, documents, usual, sigma, shares) if kind else None


def _count(rule: str, report: Report) -> int:
    return sum(report["dropped"].values()) if rule == ALL else report["dropped"].get(rule, 0)


def _spread(usual: float, shares: Sequence[float], documents: int, known: Sequence[Report], rule: str) -> float:
    """One sigma of the share that a partition of this size may have; never 0, whatever the history."""
    between = _MAD_TO_SIGMA * median(abs(each - usual) for each in shares)
    seen = sum(each["documents_in"] for each in known)
    smoothed = (sum(_count(rule, each) for each in known) + 1) / (seen + 2)
    chance = smoothed * (1 - smoothed) * (1 / documents + 1 / seen)
    return sqrt(between**2 + chance)


def accept_command(sources: Iterable[str], recrawl: Iterable[str] = ()) -> str:
    """What a person types who looked at it and agrees; the publisher passes a check whose metadata names `sources`.
    A crawl that failed twice is not tried unasked: its source is in `recrawl`."""
    options = [f"--recrawl {source}" for source in recrawl] + [f"--accept-yield {source}" for source in sources]
    return f"headwater run {' '.join(options)}"


def how_to_accept(sources: Iterable[str]) -> str:
    """The remedy for a jump that a person has looked at."""
    return f"accept it: `{accept_command(sources)}` (run tag headwater/accept_yield), which the manifest records"


def acceptable(passed: bool, words: str, evidence: Evidence, metadata: Mapping[str, Any] | None = None) -> CheckOutcome:
    """A verdict on what came in, not on our work: a person may accept it for the sources that it is about."""
    sources = {} if passed else {"sources": sorted(evidence.yields)}
    return CheckOutcome(passed, words, {**(metadata or {}), **sources})


def _yields_are_like_before(evidence: Evidence) -> CheckOutcome:
    found = {source: alarms(now, evidence.history.get(source, ())) for source, now in sorted(evidence.yields.items())}
    if any(found.values()):
        return _blocked(found, evidence)
    known = sum(len(evidence.history.get(source, ())) for source in found)
    return CheckOutcome(True, f"no rule of {len(found)} source(s) left its history of {known} accepted before")


def _blocked(found: Mapping[str, Sequence[Alarm]], evidence: Evidence) -> CheckOutcome:
    alarmed = {source: {alarm.rule for alarm in each} for source, each in found.items() if each}
    samples = _samples(evidence.samples, alarmed)
    words = "; ".join(f"{source}: {alarm}" for source, each in found.items() for alarm in each)
    shown = f" For instance: {'; '.join(map(str, samples[:SHOWN_SAMPLES]))}." if samples else ""
    return CheckOutcome(
        False,
        f"{words}.{shown} Look at the samples; mend the rule or the source, or {how_to_accept(alarmed)}",
        {
            "sources": list(alarmed),
            "alarms": [
                {"source": source, "rule": a.rule, "kind": a.kind, "dropped": a.dropped, "documents": a.documents}
                | {"usual": a.usual, "sigma": round(a.sigma, 1), "history": list(a.history[-SHOWN_HISTORY:])}
                for source, each in found.items()
                for a in each
            ],
            "samples": samples,
        },
    )


def _samples(tables: Sequence[Mapping[str, Any]], alarmed: Mapping[str, set[str]]) -> list[dict[str, Any]]:
    """Rows of the samples that speak of the sources' rules; of a rule that fell silent, what is kept instead."""
    rows = [
        {column: str(cell) for column, cell in zip(table["columns"], row, strict=True)}
        for table in tables
        for row in table["rows"]
    ]
    rules = set().union(*alarmed.values())
    # The samples of a crawl are of its one source and do not name it; those of a global stage do.
    named = [row for row in rows if row.get("source") in alarmed]
    about = [
        row
        for row in named or rows
        if alarmed.get(row.get("source", ""), rules) & {row.get("reason"), row.get("drop_reason")}
    ]
    return (about or named or rows)[:SHOWN_SAMPLES]


YIELDS_ARE_LIKE_BEFORE = Check(
    "yields_are_like_before",
    True,
    f"no drop reason moves more than {YIELD_SIGMA:g} sigma and {YIELD_POINTS_MINIMUM:.0%} from this source's history, falls silent "
    f"or takes nearly everything: a rule that broke, or a site that changed, until a person agrees (marin #6854, dolma #174)",
    _yields_are_like_before,
)
