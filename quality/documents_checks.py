"""Checks of extracted_documents and filtered_documents against the accepted version of the same crawl's data.

A recipe change that quietly drops a source or a language must not reach the corpus.
"""

from __future__ import annotations

from collections.abc import Mapping

from quality.outcome import Check, CheckOutcome, Evidence
from quality.yields import YIELDS_ARE_LIKE_BEFORE, acceptable

MIN_DOCUMENTS = 20  # below it one document is a large share, and shares say nothing
MAX_DROP_RATE_RISE = 0.2  # of all documents; between two versions of one crawl only the recipe or the code differs
MIN_KEPT_AGAINST_PREVIOUS = 0.5  # marin #6854: a source fell from 859,092 documents to 2 unnoticed
MIN_LANGUAGE_YIELD = {"zh": 0.1, "en": 0.1, "code": 0.3}  # a tenth: the worst web crawls; measured on ours 0.93 to 1.0
MAX_FAILED_SHARE = 0.02  # more is a broken parser, not broken pages (assumption; measured 0)
MAX_DROP_SHARE = 0.5  # a rule that takes half is a rule for another language or format (measured: 0.04)
MIN_MEAN_QUALITY = 0.3  # documentation and code score 0.81 to 0.93; far below is text that barely passed
MEAN_CHARACTERS = (100, 200_000)  # a mean outside says that pages lost their text or were glued together


def one_row_per_document(table: str) -> Check:
    """Rows of the table = documents that came in: none lost, none twice (the merge refuses a repeated doc_id)."""

    def run(evidence: Evidence) -> CheckOutcome:
        rows, documents = evidence.rows[table], evidence.statistic("documents_in")
        return CheckOutcome(rows == documents, f"{rows} rows in {table} for {documents} documents")

    return Check(
        "every_document_has_one_row",
        True,
        "A lost row is a document without a decision; a repeated one would be trained on twice.",
        run,
    )


def source_was_not_wiped_out(evidence: Evidence) -> CheckOutcome:
    """Something is kept, and not less than half of what the accepted version kept."""
    kept = evidence.statistic("documents_kept")
    came = evidence.report["stats"].get("wanted_seen", evidence.statistic("documents_in"))
    before = (evidence.previous or {}).get("documents_kept") or 0
    if before >= MIN_DOCUMENTS:
        return acceptable(
            kept >= MIN_KEPT_AGAINST_PREVIOUS * before,
            f"{kept} documents kept, {before} in the accepted version (at least {MIN_KEPT_AGAINST_PREVIOUS:.0%})",
            evidence,
            {"share": kept / before},
        )
    words = f"{kept} of {came} documents kept; {before} before"
    return acceptable(kept > 0 or came < MIN_DOCUMENTS, words, evidence)


def drop_rate_is_like_before(evidence: Evidence) -> CheckOutcome:
    """Against the accepted version of the same partition."""
    rate = evidence.statistic("drop_rate")
    previous = evidence.previous or {}
    came = previous.get("documents_in") or 0
    if came < MIN_DOCUMENTS:
        return CheckOutcome(True, f"drop rate {rate:.1%}; nothing to compare with")
    before = sum(previous["dropped"].values()) / came
    return CheckOutcome(
        rate <= before + MAX_DROP_RATE_RISE,
        f"drop rate {rate:.1%}, {before:.1%} in the accepted version (at most {MAX_DROP_RATE_RISE:.0%} more)"
        + _risen(evidence.statistic("dropped"), previous["dropped"]),
        {"drop_rate": rate, "drop_rate_before": before},
    )


def _risen(now: Mapping[str, int], before: Mapping[str, int]) -> str:
    rises = {reason: count - before.get(reason, 0) for reason, count in now.items()}
    reason = max(sorted(rises), key=lambda name: rises[name], default=None)
    return f"; most risen: {reason} by {rises[reason]}" if reason and rises[reason] > 0 else ""


def language_yields_are_plausible(evidence: Evidence) -> CheckOutcome:
    """Kept share of each wanted language that came in any number."""
    yields, seen = evidence.statistic("yield_by_language"), evidence.statistic("languages_seen")
    low = {
        name: share
        for name, share in yields.items()
        if seen[name] >= MIN_DOCUMENTS and share < MIN_LANGUAGE_YIELD.get(name, 0.1)
    }
    words = ", ".join(f"{name} {share:.0%} of {seen[name]}" for name, share in sorted(yields.items())) or "none came"
    return acceptable(not low, f"kept by language: {words}", evidence, {"too_low": low})


def text_lengths_are_plausible(evidence: Evidence) -> CheckOutcome:
    """Mean characters of extracted documents."""
    mean, kept = evidence.statistic("mean_characters"), evidence.statistic("documents_kept")
    low, high = MEAN_CHARACTERS
    return CheckOutcome(not kept or low <= mean <= high, f"{mean:,.0f} characters on average ({low:,} to {high:,})")


def quality_is_plausible(evidence: Evidence) -> CheckOutcome:
    """Mean quality of kept documents."""
    mean, kept = evidence.statistic("mean_quality"), evidence.statistic("documents_kept")
    return CheckOutcome(not kept or mean >= MIN_MEAN_QUALITY, f"mean quality {mean:.2f} (at least {MIN_MEAN_QUALITY})")


def extraction_rarely_fails(evidence: Evidence) -> CheckOutcome:
    """Share of captures whose parser raised, hung or died."""
    came, share = evidence.statistic("documents_in"), evidence.statistic("failed_share")
    words = f"{share:.1%} of {came} captures failed in the parser (at most {MAX_FAILED_SHARE:.0%})"
    return acceptable(came < MIN_DOCUMENTS or share <= MAX_FAILED_SHARE, words, evidence, {"share": share})


def no_rule_drops_most_of_a_source(evidence: Evidence) -> CheckOutcome:
    """Share of the documents in wanted languages that the most frequent reason takes."""
    wanted, share = evidence.statistic("wanted_seen"), evidence.statistic("largest_drop_share")
    words = f"the most frequent reason drops {share:.0%} of {wanted} documents in wanted languages (at most {MAX_DROP_SHARE:.0%})"
    return acceptable(wanted < MIN_DOCUMENTS or share <= MAX_DROP_SHARE, words, evidence, {"share": share})


_WIPED = Check(
    "source_was_not_wiped_out",
    True,
    "A source that falls below half of its accepted documents is an accident until a person agrees.",
    source_was_not_wiped_out,
)
_DROP_RATE = Check(
    "drop_rate_is_like_before",
    False,
    "The same crawl with a new recipe: a jump of the drop rate is what the change did; look at the samples.",
    drop_rate_is_like_before,
)

CHECKS: dict[str, tuple[Check, ...]] = {
    "extracted_documents": (
        one_row_per_document("documents"),
        _WIPED,
        YIELDS_ARE_LIKE_BEFORE,
        Check(
            "extraction_rarely_fails",
            True,
            "Parsers that raise, hang or die on many pages are broken themselves.",
            extraction_rarely_fails,
        ),
        _DROP_RATE,
        Check(
            "text_lengths_are_plausible",
            False,
            "Pages that shrink to their titles, or files glued together, show in the mean.",
            text_lengths_are_plausible,
        ),
    ),
    "filtered_documents": (
        one_row_per_document("decisions"),
        _WIPED,
        YIELDS_ARE_LIKE_BEFORE,
        _DROP_RATE,
        Check(
            "no_rule_drops_most_of_a_source",
            True,
            "A default Gopher filter drops 98% of good Chinese pages by one rule: such a rule does not fit the source.",
            no_rule_drops_most_of_a_source,
        ),
        Check(
            "quality_is_plausible",
            False,
            "A corpus of pages that barely passed is worth a look before it is worth training on.",
            quality_is_plausible,
        ),
        Check(
            "language_yields_are_plausible",
            True,
            "English rules on Chinese text keep almost nothing of it: each wanted language must survive its own rules.",
            language_yields_are_plausible,
        ),
    ),
}
