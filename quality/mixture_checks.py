"""Checks of the mixture group that are more than a limit on one number."""

from __future__ import annotations

from quality.outcome import Check, CheckOutcome, Evidence


def _nothing_is_at_its_limit(evidence: Evidence) -> CheckOutcome:
    channels = evidence.statistic("channels_at_max_uses")
    if channels:
        return CheckOutcome(False, f"used up to max_uses: {', '.join(channels)}; the run could not be longer as it is")
    return CheckOutcome(True, f"at most {evidence.statistic('largest_uses'):.2f} uses of a document")


def _decay_reads_good_documents(evidence: Evidence) -> CheckOutcome:
    channels = evidence.statistic("channels_of_relaxed_quality")
    if channels:
        return CheckOutcome(
            False, f"too few documents of decay_min_quality in: {', '.join(channels)}; all were allowed"
        )
    return CheckOutcome(True, "the decay phase reads only documents of decay_min_quality")


def _plan_covers_the_corpus(evidence: Evidence) -> CheckOutcome:
    documents, rows = evidence.statistic("documents_in"), evidence.rows.get("documents", 0)
    return CheckOutcome(documents == rows, f"{rows} rows for {documents} corpus documents")


def _rows_are_the_counted_pieces(evidence: Evidence) -> CheckOutcome:
    counted, rows = evidence.statistic("pieces"), evidence.rows.get("order", 0)
    return CheckOutcome(counted == rows, f"{rows} rows written, {counted} pieces counted")


def _documents_are_read(evidence: Evidence) -> CheckOutcome:
    by_uses = evidence.statistic("documents_by_uses")
    unread, total = by_uses.get("0", 0), sum(by_uses.values())
    share = unread / total if total else 1.0
    return CheckOutcome(share <= 0.5, f"{unread} of {total} training documents are not read in this run")


CHECKS: dict[str, tuple[Check, ...]] = {
    "mixture_manifest": (
        Check(
            "plan_covers_the_corpus",
            True,
            "Every corpus document has a row: trained, held out or unused.",
            _plan_covers_the_corpus,
        ),
        Check(
            "no_channel_is_used_up",
            False,
            "A channel at max_uses limits the length of the run.",
            _nothing_is_at_its_limit,
        ),
        Check(
            "decay_reads_good_documents",
            False,
            "The decay phase weighs most in the final model.",
            _decay_reads_good_documents,
        ),
    ),
    "order_manifest": (
        Check(
            "rows_are_the_counted_pieces",
            True,
            "What the checks saw is what was written.",
            _rows_are_the_counted_pieces,
        ),
        Check(
            "most_documents_are_read",
            False,
            "A run that leaves half the corpus unread is shorter than it need be.",
            _documents_are_read,
        ),
    ),
}
