"""Status and plan of many nights: a person sees what differs, a program sees all."""

from __future__ import annotations

import json

import pytest

from orchestration.cli.render import status as render_status
from orchestration.cli.render.status import SHOWN_NEWEST, SHOWN_PARTITIONS
from orchestration.identity.catalog import Catalog
from orchestration.identity.status import Item, State, Status
from orchestration.run.driver import Step


def night(number: int, state: State = "fresh", *causes: str) -> Item:
    return Item("crawl_delta", f"web@2026{number:04d}T000000Z", state, causes, f"{number:064x}")


def shown(items: list[Item], capsys: pytest.CaptureFixture[str], *, as_json: bool = False) -> str:
    render_status.status(Status("0" * 40, {(item.asset, item.partition): item for item in items}), as_json=as_json)
    return capsys.readouterr().out


def test_few_partitions_are_all_shown(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown([night(n) for n in range(SHOWN_PARTITIONS)], capsys)
    assert lines.count("web@2026") == SHOWN_PARTITIONS
    assert "older" not in lines


def test_of_many_in_one_state_the_newest_are_shown_and_what_the_others_have_in_common(
    capsys: pytest.CaptureFixture[str],
) -> None:
    fresh = [night(n) for n in range(1200)]
    stale = [night(n, "stale", f"input changed: raw_crawl ({n})", "code changed: assets.x") for n in range(1200, 1300)]
    lines = shown([*fresh, *stale, night(1300, "missing", "never built")], capsys)
    assert lines.count("web@2026") == 2 * SHOWN_NEWEST + 1
    assert "1,190 older (--json)" in lines
    folded = next(line for line in lines.splitlines() if "90 older (--json)" in line and "stale" in line)
    assert "code changed: assets.x" in folded
    assert "raw_crawl" not in folded, "what only some say is not said of all"
    assert "input changed: raw_crawl (1299)" in lines
    assert "1200 fresh, 100 stale, 1 missing" in lines


def test_json_lists_each(capsys: pytest.CaptureFixture[str]) -> None:
    items = [night(n) for n in range(300)]
    found = json.loads(shown(items, capsys, as_json=True))["items"]
    assert [each["partition"] for each in found] == [item.partition for item in items]


def test_a_plan_of_many_nights_is_as_short_and_adds_their_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    keys = [night(n).partition for n in range(100)]
    steps = [Step("crawl_job", key, ("crawl_delta",), {"crawl_delta": (f"{key}", "code changed")}) for key in keys]
    catalog = Catalog("0" * 40, {("crawl_delta", key): {"duration_s": 2.0} for key in keys[:3]})
    render_status.plan([*steps, Step("curate_job", None, ("corpus",))], catalog, as_json=False)
    out = capsys.readouterr().out
    folded = next(line for line in out.splitlines() if "90 older (--json)" in line)
    assert folded.split() == ["crawl_job", "90", "older", "(--json)", "crawl_delta", "code", "changed", "180.0"]
    assert out.count("crawl_job") == 1 + SHOWN_NEWEST
    assert "About 200 s, 1 never built before (unknown)." in out
    render_status.plan(steps, catalog, as_json=True)
    assert len(json.loads(capsys.readouterr().out)["steps"]) == 100
