"""What a person does in the UI: types options, adds a partition, launches a run, turns a schedule and a sensor on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import expect

from tests.end_to_end.harness import Home
from tests.end_to_end.ui.driving import BLOCKED, DAGSTERS_EDGE, Visitor

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(600)]  # the first waits for the build


def types_options(visitor: Visitor, words: str) -> None:
    """Open the launchpad of a job, and replace what its editor holds."""
    visitor.opens(f"/locations/{visitor.location()}/jobs/curate_job/playground")
    visitor.sees("No errors")
    visitor.page.locator(".CodeMirror").first.click()
    visitor.page.keyboard.press("Control+A")
    visitor.page.keyboard.insert_text(words)


@pytest.mark.parametrize("place", ["resources: {options: {config: {%s: true}}}", "ops: {corpus: {config: {%s: true}}}"])
def test_a_typo_in_the_launchpad_is_refused_before_anything_runs(visitor: Visitor, place: str) -> None:
    types_options(visitor, place % "allow_stal")
    try:
        visitor.sees(re.compile('unexpected config entry "allow_stal"', re.I), within_ms=15_000)
        expect(visitor.page.get_by_role("button", name="Launch Run")).to_be_disabled()
    finally:
        visitor.keeps(f"launchpad-typo-{place.split(':')[0]}")


def test_an_option_that_is_spelled_right_is_taken(visitor: Visitor) -> None:
    types_options(visitor, "resources: {options: {config: {allow_stale: true}}}")
    visitor.page.wait_for_load_state("networkidle")
    visitor.keeps("launchpad-right")
    visitor.sees("No errors", within_ms=10_000)
    expect(visitor.page.get_by_text("unexpected config entry")).to_have_count(0)


def test_a_partition_that_is_no_key_is_refused_where_it_is_typed(visitor: Visitor) -> None:
    visitor.opens_asset("raw_crawl", "events")
    visitor.clicks("Materialize…")
    visitor.text("Add a partition").click()
    visitor.sees("Partition name")
    visitor.page.keyboard.insert_text("foo")
    visitor.clicks("Save")
    try:
        visitor.sees(re.compile("foo.*is no partition key|'foo'"), within_ms=15_000)
    finally:
        visitor.keeps("partition-foo")
    visitor.complaints.clear()  # Dagster's page logs the refusal to the console too


def test_a_run_that_fails_tells_our_sentence_and_no_stack_trace(visitor: Visitor) -> None:
    visitor.launches("extracted_documents", BLOCKED)
    visitor.sees(re.compile("^Failure$"), re.compile(r"crawl_delta\[.*\] is missing|crawl_delta.*never built"))
    visitor.keeps("failed-run")
    assert visitor.frames_of_ours() <= {DAGSTERS_EDGE}


@contextmanager
def turned_on(visitor: Visitor, name: str) -> Iterator[None]:
    """A schedule or sensor, switched on in the list of automations and off again."""
    switch = 'label[class*="formatSwitch"]'

    def press() -> None:
        visitor.opens("/automation")
        row = visitor.page.locator('[class*="listItem__"]').filter(has_text=name)
        row.locator(switch).click()
        visitor.page.wait_for_load_state("networkidle")

    press()
    visitor.keeps(f"automation-{name}")
    try:
        yield
    finally:
        press()


def test_a_sensor_that_is_turned_on_ticks_and_says_why_it_asks_for_nothing(visitor: Visitor) -> None:
    with turned_on(visitor, "index_new_runs"):
        visitor.opens(f"/locations/{visitor.location()}/sensors/index_new_runs")
        visitor.sees("Running")
        visitor.clicks("0 runs requested")
        visitor.sees("everything is fresh")
        visitor.keeps("sensor-tick")


def test_a_schedule_that_is_turned_on_shows_its_next_night(visitor: Visitor, home: Home) -> None:
    with turned_on(visitor, "recrawl_site"):
        visitor.opens(f"/locations/{visitor.location()}/schedules/recrawl_site")
        visitor.sees("Next tick", "At 03:00 AM UTC", "Running")
        visitor.keeps("schedule-on")
