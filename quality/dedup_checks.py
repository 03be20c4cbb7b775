"""Checks of signatures, duplicate clusters, contamination and corpus that a plain limit cannot say."""

from __future__ import annotations

from quality.outcome import Check, CheckOutcome, Evidence
from quality.thresholds import (
    CONTAMINATED_SHARE_MAXIMUM,
    CORPUS_SHRINKAGE_MAXIMUM,
    DUPLICATE_RATE_CHANGE_MAXIMUM,
    WATCHED_SOURCE_DOCUMENTS,
    YIELD_POINTS_MINIMUM,
)
from quality.yields import YIELDS_ARE_LIKE_BEFORE, acceptable, how_to_accept


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
    words = f"{dropped} duplicates, {before} in the accepted version before"
    if passed or not evidence.previous:
        return CheckOutcome(passed, words)
    sources = sorted(evidence.previous["stats"]["dropped_by_source"])
    return CheckOutcome(passed, f"{words}; {how_to_accept(sources)}", {"sources": sources})


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


def _corpus_does_not_shrink(evidence: Evidence) -> CheckOutcome:
    kept = evidence.statistic("documents_kept")
    before = evidence.previous["documents_kept"] if evidence.previous else None
    if not evidence.previous or not before:
        return CheckOutcome(True, f"{kept} documents, nothing to compare with yet")
    loss = 1 - kept / before
    words = (
        f"{kept} documents, {before} before: {loss:+.1%} lost, at most {CORPUS_SHRINKAGE_MAXIMUM:.0%} may go at once"
    )
    if loss <= CORPUS_SHRINKAGE_MAXIMUM or before - kept < WATCHED_SOURCE_DOCUMENTS:
        return CheckOutcome(True, words, {"kept": kept, "previous": before})
    then, now = evidence.previous["stats"]["kept_by_source"], evidence.statistic("kept_by_source")
    fell = {source: (n, now.get(source, 0)) for source, n in sorted(then.items()) if n > now.get(source, 0)}
    lost = [source for source, (n, left) in fell.items() if 1 - left / n >= YIELD_POINTS_MINIMUM]
    of_each = ", ".join(f"{source} {n} to {left}" for source, (n, left) in fell.items())
    metadata = {"kept": kept, "previous": before, "sources": lost}
    return CheckOutcome(False, f"{words} ({of_each}); {how_to_accept(lost)}", metadata)


def _contamination_does_not_condemn_the_corpus(evidence: Evidence) -> CheckOutcome:
    rate, hits = evidence.statistic("drop_rate"), sum(evidence.report["dropped"].values())
    return acceptable(
        rate <= CONTAMINATED_SHARE_MAXIMUM or hits < WATCHED_SOURCE_DOCUMENTS,
        f"{hits} documents ({rate:.1%}) hold evaluation items, at most {CONTAMINATED_SHARE_MAXIMUM:.0%} may",
        evidence,
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
        YIELDS_ARE_LIKE_BEFORE,
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
        YIELDS_ARE_LIKE_BEFORE,
    ),
    "corpus": (
        Check(
            "corpus_does_not_shrink",
            True,
            f"at most {CORPUS_SHRINKAGE_MAXIMUM:.0%} of the documents (or {WATCHED_SOURCE_DOCUMENTS}) leave at once; a larger cut is a decision for a person",
            _corpus_does_not_shrink,
        ),
        YIELDS_ARE_LIKE_BEFORE,
    ),
}
