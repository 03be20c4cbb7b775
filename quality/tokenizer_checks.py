"""Checks of the tokenizer group that are more than a limit on one number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quality.outcome import Check, CheckOutcome, Evidence
from quality.yields import acceptable

LARGEST_COMPRESSION_LOSS = 0.05
"""Share of bytes per token by which a new tokenizer may be worse than the accepted one (assumption)."""

LEAST_HANZI_PER_TOKEN = 1.15
"""A vocabulary of 8,192 over three channels gives about 1.5 on Debian's handbook; below this, Chinese costs
almost a token per character and contexts hold a third less of it."""

LARGEST_CHANNEL_IMBALANCE = 4.0
"""Channels have equal budgets; beyond this ratio the vocabulary follows the larger one (assumption)."""


def _channels_have_text(evidence: Evidence) -> CheckOutcome:
    missing = evidence.statistic("channels_without_documents")
    if missing:
        return CheckOutcome(False, f"channels without a document to fit on: {', '.join(missing)}")
    return CheckOutcome(True, "every channel of the recipe has documents to fit on")


def _channels_are_balanced(evidence: Evidence) -> CheckOutcome:
    sizes: Mapping[str, int] = evidence.statistic("fit_bytes")
    filled = {channel: size for channel, size in sizes.items() if size}
    if not filled:
        return CheckOutcome(False, "no channel has text to fit on")
    ratio = max(filled.values()) / min(filled.values())
    return CheckOutcome(
        ratio <= LARGEST_CHANNEL_IMBALANCE,
        f"the largest channel has {ratio:.1f} times the bytes of the smallest (at most {LARGEST_CHANNEL_IMBALANCE:g})",
        {"fit_bytes": dict(filled)},
    )


def _vocabulary_is_as_requested(evidence: Evidence) -> CheckOutcome:
    found, wanted = evidence.statistic("vocabulary_size"), evidence.statistic("requested_vocabulary_size")
    supported = evidence.statistic("vocabulary_supported_by_sample")
    return CheckOutcome(
        found == wanted,
        f"{found} of {wanted} requested ids; {evidence.statistic('sample_bytes')} bytes of sample support {supported}",
    )


def _hanzi_compress(evidence: Evidence) -> CheckOutcome:
    found = evidence.statistic("hanzi_per_token").get("zh")
    if found is None:
        return CheckOutcome(True, "no Chinese audit document: nothing to measure")
    return CheckOutcome(
        found >= LEAST_HANZI_PER_TOKEN, f"{found:.2f} hanzi per token (at least {LEAST_HANZI_PER_TOKEN:g})"
    )


def _compression_is_not_lost(evidence: Evidence) -> CheckOutcome:
    now = evidence.statistic("bytes_per_token")
    before: Mapping[str, Any] = (evidence.previous or {}).get("stats", {}).get("bytes_per_token", {})
    worse = {
        channel: f"{before[channel]:.2f} -> {value:.2f}"
        for channel, value in now.items()
        if channel in before and value < before[channel] * (1 - LARGEST_COMPRESSION_LOSS)
    }
    if worse:
        return CheckOutcome(False, f"bytes per token fell by more than {LARGEST_COMPRESSION_LOSS:.0%}: {worse}", worse)
    return CheckOutcome(True, f"bytes per token {now}; before {dict(before) or 'nothing'}")


def _every_corpus_document_is_in_the_index(evidence: Evidence) -> CheckOutcome:
    documents, rows = evidence.statistic("documents_in"), evidence.rows.get("index", 0)
    return CheckOutcome(documents == rows, f"{rows} index rows for {documents} corpus documents")


def _tokens_did_not_collapse(evidence: Evidence) -> CheckOutcome:
    now = evidence.statistic("tokens_in_index")
    before = (evidence.previous or {}).get("stats", {}).get("tokens_in_index")
    if not before:
        return CheckOutcome(True, f"{now} tokens; no accepted version to compare with")
    return acceptable(
        now >= before / 2, f"{before} -> {now} tokens: less than half is a lost source until explained", evidence
    )


CHECKS: dict[str, tuple[Check, ...]] = {
    "tokenizer_sample": (
        Check(
            "every_channel_has_text",
            False,
            "A channel that the recipe names but the corpus lacks gets no tokens of its own.",
            _channels_have_text,
        ),
        Check(
            "channels_are_balanced", False, "The vocabulary follows the bytes it is fitted on.", _channels_are_balanced
        ),
    ),
    "tokenizer": (
        Check(
            "vocabulary_is_as_requested",
            False,
            "A sample too small for the requested size gives a smaller vocabulary.",
            _vocabulary_is_as_requested,
        ),
    ),
    "tokenizer_report": (
        Check("hanzi_are_compressed", False, "Chinese must not cost a token per character.", _hanzi_compress),
        Check(
            "compression_is_not_lost",
            False,
            "Compared with the accepted tokenizer, channel by channel.",
            _compression_is_not_lost,
        ),
    ),
    "token_shards": (
        Check(
            "every_corpus_document_is_in_the_index",
            True,
            "Documents lost between corpus and tokens would be missed by nobody.",
            _every_corpus_document_is_in_the_index,
        ),
        Check(
            "tokens_did_not_collapse",
            True,
            "A source lost upstream shows as tokens lost here (marin #6854 lost one unnoticed).",
            _tokens_did_not_collapse,
        ),
    ),
}
