"""Yield alarms: planted jumps are found on the first night, ordinary nights are left alone, acceptance is recorded."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from assets.build import SilentProgress
from orchestration.config import load_config
from orchestration.identity.catalog import read_catalog
from orchestration.publish.publisher import BlockedError, Publisher, publish
from orchestration.store import open_store
from quality.outcome import Evidence
from quality.yields import ALL, YIELDS_ARE_LIKE_BEFORE, alarms
from tests.histories.building import write_config
from tests.histories.world import render


def report(documents: int, **dropped: int) -> dict[str, Any]:
    kept = documents - sum(dropped.values())
    return {"documents_in": documents, "documents_kept": kept, "dropped": dropped, "stats": {}}


def nights(rate: float, count: int = 8, documents: int = 200, seed: int = 1) -> list[dict[str, Any]]:
    """A source of which one rule drops about the same share every night."""
    draw = random.Random(seed)
    return [report(documents, too_short=sum(draw.random() < rate for _ in range(documents))) for _ in range(count)]


def kinds(now: dict[str, Any], history: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(alarm.rule, alarm.kind) for alarm in alarms(now, history)]


def test_a_rule_that_suddenly_takes_more_is_named_with_value_and_history() -> None:
    found = alarms(report(200, too_short=90, not_text=2), nights(0.1))
    assert [(alarm.rule, alarm.kind) for alarm in found] == [("too_short", "jump")]
    words = str(found[0])
    assert "too_short drops 45.0% (90 of 200), usually" in words
    assert "sigma away (accepted before: " in words


def test_a_new_rule_jumps_from_nothing() -> None:
    assert kinds(report(200, too_short=20, undecodable=60), nights(0.1)) == [("undecodable", "jump")]


def test_a_rule_that_falls_silent_is_as_bad_as_one_that_takes_all() -> None:
    assert kinds(report(200), nights(0.1)) == [("too_short", "silence")]
    assert kinds(report(200, too_short=200), nights(0.1)) == [("too_short", "all gone")]
    assert kinds(report(200, too_short=100, not_text=99), nights(0.4)) == [("not_text", "jump")]


def test_without_a_history_only_nearly_everything_is_an_alarm() -> None:
    assert kinds(report(200, too_short=150), []) == []
    found = alarms(report(200, too_short=199), [])
    assert [(alarm.rule, alarm.usual) for alarm in found] == [("too_short", None)]
    assert "no history yet, at most 98%" in str(found[0])
    assert kinds(report(200, too_short=100, not_text=99), []) == [(ALL, "all gone")]


def test_small_partitions_are_neither_judged_nor_history() -> None:
    assert kinds(report(19, too_short=19), nights(0.1)) == []
    assert kinds(report(200, too_short=150), [report(10, too_short=0)]) == []


def test_a_restless_source_may_be_restless() -> None:
    history = [report(100, too_short=n) for n in (5, 40, 12, 55, 30, 8, 45)]
    assert kinds(report(100, too_short=60), history) == []
    assert kinds(report(100, too_short=99), history) == [("too_short", "all gone")]


@pytest.mark.parametrize("rate", [0.0, 0.02, 0.1, 0.5])
@pytest.mark.parametrize("documents", [20, 60, 2000])
def test_ordinary_nights_raise_no_alarm(rate: float, documents: int) -> None:
    for seed in range(60):
        *history, now = nights(rate, 4, documents, seed)
        assert alarms(now, history) == []


def test_a_jump_that_no_person_would_look_at_is_none() -> None:
    assert kinds(report(100_000, too_short=12_000), [report(100_000, too_short=10_000)] * 5) == []


def test_samples_of_the_rule_stand_in_the_check() -> None:
    table = {
        "title": "Dropped",
        "columns": ("reason", "url"),
        "rows": (("not_text", "file:///a"), ("too_short", "file:///b")),
    }
    now = report(200, too_short=150)
    evidence = Evidence(now, None, {}, 0, {"pages": now}, {"pages": nights(0.1)}, [table])
    outcome = YIELDS_ARE_LIKE_BEFORE.run(evidence)
    assert not outcome.passed
    assert outcome.metadata["samples"] == [{"reason": "too_short", "url": "file:///b"}]
    assert "file:///b" in outcome.description
    assert "--accept-yield pages" in outcome.description


def test_samples_are_of_the_source_and_the_rule() -> None:
    rows = (("a", "near_duplicate", "u/1"), ("b", "exact_duplicate", "u/2"), ("b", "near_duplicate", "u/3"))
    table = {"title": "New", "columns": ("source", "reason", "url"), "rows": (*rows, ("b", "kept", "u/4"))}
    yields = {"a": report(200, near_duplicate=20), "b": report(200, near_duplicate=150)}
    history = dict.fromkeys("ab", [report(200, near_duplicate=20)] * 3)
    outcome = YIELDS_ARE_LIKE_BEFORE.run(Evidence({}, None, {}, 0, yields, history, [table]))
    assert outcome.metadata["samples"] == [{"source": "b", "reason": "near_duplicate", "url": "u/3"}]
    assert outcome.metadata["sources"] == ["b"]
    yields["b"] = report(200)
    outcome = YIELDS_ARE_LIKE_BEFORE.run(Evidence({}, None, {}, 0, yields, history, [table]))
    assert "b: silence: near_duplicate drops 0.0% (0 of 200), usually 10.0%" in outcome.description
    table["rows"] = (rows[0], rows[1], ("b", "kept", "u/4"))
    outcome = YIELDS_ARE_LIKE_BEFORE.run(Evidence({}, None, {}, 0, yields, history, [table]))
    assert [row["url"] for row in outcome.metadata["samples"]] == ["u/2", "u/4"], "what is kept instead"


def test_what_was_accepted_is_usual_at_once_and_what_was_usual_stays_so() -> None:
    history = [*nights(0.1, 20), report(200, too_short=100) | {"accepted": True}]
    assert kinds(report(200, too_short=104), history) == []
    assert kinds(report(200, too_short=20), history) == []
    assert kinds(report(200, too_short=160), history) == [("too_short", "jump")]
    assert kinds(report(200, too_short=60), history[:-1]) == [("too_short", "jump")]


def test_a_jump_keeps_a_crawl_off_main_until_a_person_accepts_it(tmp_path: Path) -> None:
    site = tmp_path / "sites" / "pages"
    site.mkdir(parents=True)
    for number in range(40):
        (site / f"{number:02d}.txt").write_bytes(render(f"en {number}", "text"))
    write_config(tmp_path / "config", tmp_path / "sites", {}, {"pages": "text"}, workers=1)
    store, config = open_store(str(tmp_path / "store.git")), load_config(tmp_path / "config")
    publisher = Publisher(store, config, tmp_path, SilentProgress())
    first, second, third = (f"pages@2026010{day}T000000Z" for day in (1, 2, 3))
    publish(publisher, "raw_crawl", first)
    for number in range(20):
        (site / f"{number:02d}.txt").write_bytes(b"")
    with pytest.raises(BlockedError, match=r"jump: empty_body drops 50.0% \(20 of 40\), usually 0.0%"):
        publish(publisher, "raw_crawl", second)
    assert read_catalog(store).partitions("raw_crawl") == [first]
    publisher.accept_yield = frozenset({"another"})
    with pytest.raises(BlockedError):
        publish(publisher, "raw_crawl", second)
    publisher.accept_yield = frozenset({"pages"})
    manifest = publish(publisher, "raw_crawl", second).manifest
    assert "empty_body drops 50.0%" in manifest["accepted_yields"][0]
    check = next(check for check in manifest["checks"] if check["name"] == "yields_are_like_before")
    assert (check["passed"], check["blocking"]) == (False, False)
    publisher.accept_yield = frozenset()
    publish(publisher, "raw_crawl", third)  # what was accepted is history now
