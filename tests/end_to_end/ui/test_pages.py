"""What a person sees who only looks: each group's assets, the graph, the runs, a blocked check."""

from __future__ import annotations

import json
import re

import pytest
from playwright.sync_api import expect

from assets.build import StageReport
from orchestration.graph.ui_metadata import SAMPLE_ROWS, latest_pictures
from orchestration.identity.catalog import prefix, read_catalog
from orchestration.identity.digest import REPORT
from orchestration.publish import report_json
from orchestration.stages import BY_NAME, GROUPS, JOBS, STAGES
from orchestration.store import open_store
from quality.asset_checks import check_specs
from tests.end_to_end.harness import STAMP, Home
from tests.end_to_end.ui.driving import BLOCKED, Visitor

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(600)]  # the first waits for the build

ONE_OF_EACH_GROUP = {
    "sources": "raw_crawl",
    "documents": "filtered_documents",
    "dedup": "corpus",
    "tokenizer": "tokenizer_report",
    "mixture": "mixture_manifest",
    "training": "base_checkpoints",
    "evaluation": "release_card",
    "lineage": "lineage_audit",
}


def newest(home: Home, asset: str) -> tuple[StageReport, str]:
    """The report of the newest published version, and the plots that the description shows."""
    store = open_store(home.state / "store.git")
    catalog = read_catalog(store)
    manifests = [found for (name, _), found in catalog.manifests.items() if name == asset]
    manifest = max(manifests, key=lambda found: found["created_at"])
    path = prefix(BY_NAME[asset], manifest["partition"]) + REPORT
    return report_json.decode(json.loads(store.read_bytes(catalog.commit, path))), latest_pictures(
        asset, store, catalog
    )


def test_every_group_has_an_asset_here() -> None:
    assert {group: BY_NAME[asset].group for group, asset in ONE_OF_EACH_GROUP.items()} == {g: g for g in GROUPS}


@pytest.mark.parametrize("asset", ONE_OF_EACH_GROUP.values())
def test_an_asset_of_each_group(visitor: Visitor, home: Home, asset: str) -> None:
    page = visitor.page
    report, pictures = newest(home, asset)
    visitor.opens_asset(asset)
    visitor.sees(BY_NAME[asset].sentence, "Latest materialization", "Metadata")
    if page.get_by_role("button", name="Show more").count():
        visitor.clicks("Show more")
    visitor.keeps(f"asset-{asset}")
    for title in re.findall(r"!\[(.+?)\]\(data:image/png", pictures):
        image = page.locator(f'img[alt="{title}"]').first
        expect(image).to_be_visible()
        assert image.evaluate("image => image.naturalWidth") > 300, title
    for sample in report.samples:
        named = re.compile(f"^sample: {re.escape(sample.title)}( \\[|$)")
        row = page.locator("tr").filter(has=page.get_by_text(named)).last
        row.scroll_into_view_if_needed()
        if not sample.rows:
            expect(row).to_contain_text("none")
            continue
        shown = row.locator("table tr")
        expect(shown).to_have_count(min(len(sample.rows), SAMPLE_ROWS) + 1, timeout=10_000)  # and its head
        visitor.keeps(f"asset-{asset}-sample-{report.samples.index(sample)}")
    visitor.opens_asset(asset, "checks")
    checks = check_specs(asset)
    visitor.sees(f"Checks ({len(checks)})" if checks else "No checks found for this asset")
    for check in checks:  # the list shortens long names
        expect(page.get_by_text(check.name, exact=True).first).to_be_attached()
    visitor.keeps(f"asset-{asset}-checks")


def test_columns_of_a_table_are_listed_with_their_types(visitor: Visitor) -> None:
    visitor.opens_asset("filtered_documents")
    visitor.sees("Columns", "drop_reason")
    visitor.page.get_by_text("Columns", exact=True).first.scroll_into_view_if_needed()
    visitor.keeps("columns")


def test_the_graph_shows_every_group_and_every_asset(visitor: Visitor) -> None:
    visitor.page.set_viewport_size({"width": 3000, "height": 1900})  # where nodes are small, they lose their names
    visitor.opens("/asset-groups")
    groups = [f"{number}_{group}" for number, group in enumerate(GROUPS, start=1)]
    visitor.sees(*groups)
    visitor.keeps("graph-of-groups")
    visitor.page.mouse.click(1000, 1700, button="right")
    visitor.text(re.compile("Expand all")).click()
    for stage in STAGES:  # a node shortens a long name: its parts around the ellipsis
        begin, end = re.escape(stage.name[:6]), re.escape(stage.name[-6:])
        visitor.sees(re.compile(f"^(?:{stage.name}|{begin}.*…_?.*{end})$"))
    visitor.keeps("graph")


def test_a_crawl_asset_lists_its_partitions(visitor: Visitor) -> None:
    visitor.opens_asset("crawl_delta", "partitions")
    visitor.sees(f"code@{STAMP}", f"site@{STAMP}", BLOCKED)
    visitor.page.get_by_text(f"site@{STAMP}").locator("visible=true").first.click()
    visitor.sees("store path", re.compile(f"main:sources/crawl_delta/.*{STAMP}"))
    visitor.keeps("partitions")


def test_runs_of_the_command_line_are_in_the_list_of_runs(visitor: Visitor) -> None:
    visitor.opens("/runs")
    visitor.sees("Success", "Failure", *JOBS)
    visitor.keeps("runs")


def test_runs_of_the_command_line_are_on_the_timeline(visitor: Visitor) -> None:
    visitor.opens("/overview/activity/timeline")
    visitor.sees("Jobs", "Now")
    expect(visitor.text("Loading runs and scheduled ticks")).to_be_hidden()
    visitor.keeps("timeline")
    visitor.sees(*JOBS, within_ms=10_000)


def test_runs_of_the_command_line_are_among_those_of_their_job(visitor: Visitor) -> None:
    visitor.opens(f"/locations/{visitor.location()}/jobs/crawl_job/runs")
    visitor.sees("Created at")
    visitor.keeps("runs-of-a-job")
    visitor.sees(BLOCKED, "Failure", within_ms=20_000)


def test_the_code_location_has_our_name(visitor: Visitor) -> None:
    visitor.opens("/locations")
    visitor.sees("Loaded")
    visitor.keeps("locations")
    assert visitor.location() == "headwater"
