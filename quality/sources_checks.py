"""Checks of raw_crawl and crawl_delta that compare with what was live before: a source must not vanish unnoticed."""

from __future__ import annotations

from quality.outcome import Check, CheckOutcome, Evidence
from quality.yields import YIELDS_ARE_LIKE_BEFORE, how_to_accept

MIN_PAGES = 20  # below it one edited page is a large share, and shares say nothing
MAX_REMOVED_SHARE = 0.5  # marin #6854: a source fell from 859,092 documents to 2 and nobody noticed


def links_led_beyond_the_start_urls(evidence: Evidence) -> CheckOutcome:
    """A site of which only the start URLs are kept is usually markup that was not understood, or a prefix too narrow."""
    kept, starts = evidence.statistic("documents_kept"), evidence.statistic("start_urls")
    return CheckOutcome(kept > starts, f"{kept} pages kept from {starts} start URLs")


def removed_pages_are_a_minority(evidence: Evidence) -> CheckOutcome:
    """Against the pages that were live before this crawl."""
    removed, live = evidence.statistic("changes.removed"), evidence.statistic("live_before")
    share = evidence.statistic("removed_share")
    if live < MIN_PAGES:
        return CheckOutcome(True, f"{removed} of {live} live pages removed; too few pages to judge a share")
    words = f"{removed} of {live} live pages removed: {share:.0%} (at most {MAX_REMOVED_SHARE:.0%}); rules {evidence.statistic('rules')}"
    if share <= MAX_REMOVED_SHARE:
        return CheckOutcome(True, words, {"share": share})
    sources = list(evidence.yields)
    return CheckOutcome(False, f"{words}; {how_to_accept(sources)}", {"share": share, "sources": sources})


CHECKS: dict[str, tuple[Check, ...]] = {
    "raw_crawl": (
        Check(
            "links_led_beyond_the_start_urls",
            False,
            "Keeping only the start URLs means that no link was found or followed: look at path_prefixes and the pages' markup.",
            links_led_beyond_the_start_urls,
        ),
        YIELDS_ARE_LIKE_BEFORE,
    ),
    "crawl_delta": (
        Check(
            "removed_pages_are_a_minority",
            True,
            "Removing most of a source at once is an accident (moved site, new robots.txt, wrong prefix) until a person agrees.",
            removed_pages_are_a_minority,
        ),
    ),
}
