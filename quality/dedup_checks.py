"""Checks of signatures, duplicate clusters, contamination and corpus that a plain limit cannot say."""

from __future__ import annotations

from quality.outcome import Check, CheckOutcome, Evidence
from quality.thresholds import (
    CONTAMINATED_SHARE_MAXIMUM,
    CORPUS_SHRINKAGE_MAXIMUM,
    DUPLICATE_RATE_CHANGE_MAXIMUM,
    SOURCE_YIELD_DROP_MAXIMUM,
    SOURCE_YIELD_MINIMUM,
    WATCHED_SOURCE_DOCUMENTS,
)


def _every_kept_document_is_signed(evidence: Evidence) -> CheckOutcome:
    kept = evidence.statistic("documents_in")
    signed = sum(rows for table, rows in evidence.rows.items() if table == "signatures")
    return CheckOutcome(signed == kept, f"{signed} signatures for {kept} documents kept by the filters")


def _proven_pairs_reach_the_threshold(evidence: Evidence) -> CheckOutcome:
    smallest, threshold = evidence.statistic("smallest_similarity"), evidence.statistic("threshold")
    return CheckOutcome(
        smallest >= threshold, f"weakest proven pair has Jaccard {smallest:.4f}, the recipe asks {threshold}"
    )


def _duplicates_are_still_found(evidence: Evidence) -> CheckOutcome:
    """A dedup that suddenly matches nothing is broken, not lucky."""
    dropped = sum(evidence.report["dropped"].values())
    before = sum(evidence.previous["dropped"].values()) if evidence.previous else 0
    passed = dropped > 0 or before < WATCHED_SOURCE_DOCUMENTS
    return CheckOutcome(passed, f"{dropped} duplicates, {before} in the accepted version before")


def _duplicate_rate_is_near_the_previous(evidence: Evidence) -> CheckOutcome:
    rate = evidence.statistic("drop_rate")
    if not evidence.previous or not evidence.previous["documents_in"]:
        return CheckOutcome(True, f"duplicate rate {rate:.3f}, nothing to compare with yet")
    before = sum(evidence.previous["dropped"].values()) / evidence.previous["documents_in"]
    passed = abs(rate - before) <= DUPLICATE_RATE_CHANGE_MAXIMUM
    return CheckOutcome(
        passed,
        f"duplicate rate {rate:.3f}, {before:.3f} before (may differ by {DUPLICATE_RATE_CHANGE_MAXIMUM})",
        {"rate": rate, "previous": before},
    )


def _no_source_is_wiped(evidence: Evidence) -> CheckOutcome:
    """Per source: the share of its documents that stays, against a floor and against the accepted version before."""
    yields = _yields(evidence.statistic("documents_by_source"), evidence.statistic("kept_by_source"))
    stats = evidence.previous["stats"] if evidence.previous else {}
    before = _yields(stats.get("documents_by_source", {}), stats.get("kept_by_source", {}))
    wiped = []
    for source, (documents, share) in sorted(yields.items()):
        if documents < WATCHED_SOURCE_DOCUMENTS:
            continue
        old = before[source][1] if source in before and before[source][0] >= WATCHED_SOURCE_DOCUMENTS else 0.0
        if share < SOURCE_YIELD_MINIMUM or old - share > SOURCE_YIELD_DROP_MAXIMUM:
            wiped.append(
                f"{source}: {share:.1%} of {documents} documents stay" + (f", {old:.1%} before" if old else "")
            )
    watched = sum(documents >= WATCHED_SOURCE_DOCUMENTS for documents, _ in yields.values())
    return CheckOutcome(
        not wiped, "; ".join(wiped) or f"{watched} sources watched, none lost its documents", {"wiped": wiped}
    )


def _yields(documents: dict[str, int], kept: dict[str, int]) -> dict[str, tuple[int, float]]:
    return {source: (count, kept.get(source, 0) / count) for source, count in documents.items() if count}


def _corpus_does_not_shrink(evidence: Evidence) -> CheckOutcome:
    kept = evidence.statistic("documents_kept")
    before = evidence.previous["documents_kept"] if evidence.previous else None
    if not before:
        return CheckOutcome(True, f"{kept} documents, nothing to compare with yet")
    loss = 1 - kept / before
    return CheckOutcome(
        loss <= CORPUS_SHRINKAGE_MAXIMUM or before - kept < WATCHED_SOURCE_DOCUMENTS,
        f"{kept} documents, {before} before: {loss:+.1%} lost, at most {CORPUS_SHRINKAGE_MAXIMUM:.0%} may go at once",
        {"kept": kept, "previous": before},
    )


def _contamination_does_not_condemn_the_corpus(evidence: Evidence) -> CheckOutcome:
    rate, hits = evidence.statistic("drop_rate"), sum(evidence.report["dropped"].values())
    return CheckOutcome(
        rate <= CONTAMINATED_SHARE_MAXIMUM or hits < WATCHED_SOURCE_DOCUMENTS,
        f"{hits} documents ({rate:.1%}) hold evaluation items, at most {CONTAMINATED_SHARE_MAXIMUM:.0%} may",
    )


_WIPED = (
    f"a source of {WATCHED_SOURCE_DOCUMENTS} or more documents keeps {SOURCE_YIELD_MINIMUM:.0%} of them, and loses no more than "
    f"{SOURCE_YIELD_DROP_MAXIMUM:.0%} against the accepted version: a dedup once left 2 of 859,092 documents, unnoticed (marin #6854)"
)

CHECKS: dict[str, tuple[Check, ...]] = {
    "document_signatures": (
        Check(
            "every_kept_document_is_signed",
            True,
            "one signature per document that the filters kept: a document without one is compared with nothing",
            _every_kept_document_is_signed,
        ),
    ),
    "duplicate_clusters": (
        Check(
            "proven_pairs_reach_the_threshold",
            True,
            "no document is dropped for a pair under the Jaccard threshold of the recipe",
            _proven_pairs_reach_the_threshold,
        ),
        Check("no_source_is_wiped", True, _WIPED, _no_source_is_wiped),
        Check(
            "duplicates_are_still_found",
            True,
            f"where {WATCHED_SOURCE_DOCUMENTS} or more duplicates were found before, some are found now: "
            "a dedup once matched nothing, unnoticed (dolma #174)",
            _duplicates_are_still_found,
        ),
        Check(
            "duplicate_rate_is_near_the_previous",
            False,
            "the web does not change its habits overnight: a jump is a new mirror, or a bug",
            _duplicate_rate_is_near_the_previous,
        ),
    ),
    "contamination": (
        Check(
            "contamination_does_not_condemn_the_corpus",
            True,
            "so many hits are a common sentence among the items, not a leak: look at which item, and lengthen or remove it",
            _contamination_does_not_condemn_the_corpus,
        ),
    ),
    "corpus": (
        Check(
            "corpus_does_not_shrink",
            True,
            f"at most {CORPUS_SHRINKAGE_MAXIMUM:.0%} of the documents (or {WATCHED_SOURCE_DOCUMENTS}) leave at once; a larger cut is a decision for a person",
            _corpus_does_not_shrink,
        ),
        Check("no_source_is_wiped", True, _WIPED, _no_source_is_wiped),
    ),
}
