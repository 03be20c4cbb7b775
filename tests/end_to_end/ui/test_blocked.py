"""A check that blocked a crawl: red, in our words, and still to be seen when another source's is green."""

from __future__ import annotations

import re

import pytest

from tests.end_to_end.harness import STAMP
from tests.end_to_end.ui.driving import DAGSTERS_EDGE, Visitor, ask

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(600)]  # the first waits for the build


def test_a_blocked_check_is_red_and_says_why(visitor: Visitor) -> None:
    visitor.opens_asset("crawl_delta")
    visitor.sees("Latest check results")
    visitor.keeps("blocked-asset")
    visitor.opens("/assets/crawl_delta?view=checks&checkDetail=removed_pages_are_a_minority")
    visitor.sees("This is a blocking asset check.", re.compile("20 of 25 live pages removed: 80%"), "Failed")
    visitor.sees(re.compile("headwater run --accept-yield code"))
    visitor.keeps("blocked-check")


def test_the_run_that_was_blocked_says_so_in_our_words(visitor: Visitor) -> None:
    failed = '{ runsOrError(filter: {statuses: [FAILURE], pipelineName: "crawl_job"}) { ... on Runs { results { runId } } } }'
    (run,) = ask(visitor.url, failed)["runsOrError"]["results"]
    visitor.opens("/runs")
    visitor.text(run["runId"][:8]).click()
    visitor.sees(re.compile(r"1 blocking check\(s\) failed: removed_pages_are_a_minority"))
    visitor.keeps("blocked-run")
    assert visitor.frames_of_ours() <= {DAGSTERS_EDGE}


def test_a_green_check_of_one_source_hides_no_blocked_one_of_another(visitor: Visitor) -> None:
    visitor.launches("crawl_delta", f"site@{STAMP}")
    visitor.sees(re.compile("^Success$"))
    visitor.keeps("successful-run")
    visitor.opens("/assets/crawl_delta?view=checks&checkDetail=removed_pages_are_a_minority")
    visitor.sees("Latest execution")
    visitor.keeps("checks-of-two-sources")
    visitor.sees(re.compile("^Failed$"), within_ms=15_000)  # in the list, beside the passed one of the site
