"""The equality law: whatever happened before, every data version is that of a build from scratch.

    random histories -> the real stages, publisher and store, killed and restarted -> compared with a build
    from scratch over the same raw crawls, and with a model that knows only the history

`make campaign-histories` runs 1,000 others every day; a failing one is replayed by its seed or by the line it prints
(tests/campaigns/histories.py). What can happen is in tests/histories/world.py, what must be true in model.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from tests.campaigns.histories import HISTORIES, Server, explain, seed_of_day, smaller
from tests.histories.model import expect, problems
from tests.histories.world import ANCHOR, RECIPES, SLOTS, SOURCES, History, Night, contains, random_history

SEEDS = range(1, 9)
"""The same in every run of the suite, as are the examples below (`derandomize`); the campaign draws new ones each day."""

KINDS = st.sampled_from(["en", "zh", "short", "fr", "binary", "item"])
PAGES = st.tuples(st.sampled_from(list(SOURCES)), st.integers(1, SLOTS - 1))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A process that runs histories."""
    started = Server()
    started.ready()
    yield started
    started.close()


def outcome(server: Server, history: History) -> dict[str, Any]:
    server.ask(history)
    return server.answer()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_histories_of_the_campaign_end_like_a_build_from_scratch(server: Server) -> None:
    for seed in SEEDS:
        history = random_history(seed, nights=4)
        result = outcome(server, history)
        assert not result["problems"], f"{result['problems'][0]}\n{explain(history)}"
        assert result["counts"]["data versions compared"] > 20


class AnyHistory(RuleBasedStateMachine):
    """Events in any order; when they end, the history is lived through and compared."""

    server: Server

    def __init__(self) -> None:
        super().__init__()
        first: list[tuple[str, int, str | None]] = [(s, ANCHOR, f"en {90 + n}") for n, s in enumerate(SOURCES)]
        first += [(source, slot, f"en {slot}") for source in SOURCES for slot in (1, 2, 3)]
        self.history = History(0, [Night(changes=first, crawl=list(SOURCES))])
        self.night = Night()

    @rule(page=PAGES, kind=KINDS, number=st.integers(0, 5), variant=st.sampled_from(["", " light 1", " medium 1"]))
    def put(self, page: tuple[str, int], kind: str, number: int, variant: str) -> None:
        content = f"{kind} {number}{variant if kind in ('en', 'zh') else ''}"
        self.night.changes.append((*page, content))

    @rule(page=PAGES)
    def remove(self, page: tuple[str, int]) -> None:
        self.night.changes.append((*page, None))

    @rule(page=PAGES)
    def fail_for_a_night(self, page: tuple[str, int]) -> None:
        self.night.fails.append(page)

    @rule(key=st.sampled_from(list(RECIPES)), which=st.integers(0, 1))
    def change_the_recipe(self, key: str, which: int) -> None:
        self.night.recipe.append((key, RECIPES[key][which]))

    @rule(operation=st.integers(1, 400))
    def kill(self, operation: int) -> None:
        self.night.kills.append(operation)

    @precondition(lambda self: len(self.history.nights) < 5)
    @rule(sources=st.sets(st.sampled_from(list(SOURCES))), builds=st.booleans())
    def night_falls(self, sources: set[str], builds: bool) -> None:
        self.night.crawl, self.night.builds = sorted(sources), builds
        self.history.nights.append(self.night)
        self.night = Night()

    def teardown(self) -> None:
        self.night.crawl = list(SOURCES)
        self.history.nights.append(self.night)
        result = outcome(self.server, self.history)
        assert not result["problems"], f"{result['problems'][0]}\n{explain(self.history)}"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_any_history_ends_like_a_build_from_scratch(server: Server) -> None:
    class Machine(AnyHistory):
        pass

    Machine.server = server
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=6,
            stateful_step_count=20,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "contents",
    [
        ("en 1", "en 7", "en 1"),
        ("en 1", None, "en 1"),
        ("en 1", "en 1 light 1", "en 1"),
        ("en 2", "en 7", "en 2"),
        ("en 1", "fr 1", "en 1"),
        ("en 1", "item 1", "en 1"),
        ("en 1", "en 7", "en 8", None, "en 8", "en 1"),
        (None, "en 7", None),
    ],
    ids=lambda contents: ", ".join(content or "gone" for content in contents),
)
def test_changes_that_cancel_out_between_two_builds_are_no_change(
    server: Server, contents: tuple[str | None, ...]
) -> None:
    """A page goes A, B, A (alone, or the twin of another page) while only crawls run; then everything is built."""
    first: list[tuple[str, int, str | None]] = [(source, ANCHOR, f"en {90 + n}") for n, source in enumerate(SOURCES)]
    first += [("alpha", 2, "en 2"), ("beta", 1, "zh 1")]
    nights = [Night(changes=[*first, ("alpha", 1, contents[0])], crawl=list(SOURCES))]
    for content in contents[1:]:
        nights.append(Night(changes=[("alpha", 1, content)], crawl=["alpha"], builds=False))
    nights[-1].builds = True
    history = History(0, nights)
    assert contains(history)["nights without a build"] == len(contents) - 2
    result = outcome(server, history)
    assert not result["problems"], f"{result['problems'][0]}\n{explain(history)}"


def tables_of(history: History) -> tuple[list[dict], list[dict], list[dict]]:
    """What right tables say of a history without duplicates."""
    expected = expect(history)
    decisions, clusters, corpus = [], [], []
    for source, url in expected.live:
        page = {"doc_id": source + url, "source": source, "url": url}
        stage, reason = expected.fates[source, url] or (None, None)
        decisions.append(page | {"live": True, "stage": stage, "drop_reason": reason})
        if stage is None:
            clusters.append({"doc_id": page["doc_id"], "cluster_id": page["doc_id"], "kept": True})
            corpus.append(page)
    return decisions, clusters, corpus


def two_nights() -> History:
    first: list[tuple[str, int, str | None]] = [("alpha", 0, "en 1"), ("alpha", 1, "zh 2"), ("beta", 0, "fr 3")]
    return History(0, [Night(changes=first, crawl=["alpha", "beta"]), Night(changes=[("alpha", 1, None)], crawl=[])])


def test_the_model_notices_what_tables_get_wrong() -> None:
    history = two_nights()
    expected, (decisions, clusters, corpus) = expect(history), tables_of(history)
    expected.ever = len(decisions)
    assert problems(expected, decisions, clusters, corpus) == []
    assert "live in one of corpus and model" in problems(expected, decisions[1:], clusters, corpus)[0]
    assert "corpus and decisions differ" in problems(expected, decisions, clusters, corpus[1:])[0]
    french = [row | {"stage": None} if row["drop_reason"] else row for row in decisions]
    assert "language_not_wanted" in problems(expected, french, clusters, corpus)[0]
    assert "duplicate_clusters decides" in problems(expected, decisions, clusters[1:], corpus)[0]
    one_cluster = [row | {"cluster_id": "same"} for row in clusters]
    found = problems(expected, decisions, one_cluster, corpus)
    assert any("is not connected by near-duplicates" in problem for problem in found)
    assert any("keeps 2" in problem for problem in found)


def test_removals_count_when_they_are_crawled_and_failures_do_not() -> None:
    history = two_nights()
    assert len(expect(history).live) == 3
    history.nights[1].crawl = ["alpha"]
    assert len(expect(history).live) == 2
    history.nights[1] = Night(fails=[("alpha", 1)], crawl=["alpha"])
    assert len(expect(history).live) == 3
    history.nights[1] = Night(changes=[("alpha", 1, None)], recipe=[("delta.missing_crawls", 2)], crawl=["alpha"])
    assert len(expect(history).live) == 3


def test_close_texts_must_and_distant_ones_must_not_be_one_cluster() -> None:
    changes: list[tuple[str, int, str | None]] = [
        ("alpha", 0, "en 1"),
        ("alpha", 1, "en 1 light 1"),
        ("alpha", 2, "en 1 medium 1"),
        ("beta", 0, "en 1"),
        ("beta", 1, "en 2"),
    ]
    history = History(0, [Night(changes=changes, crawl=["alpha", "beta"])])
    same = {frozenset(pair) for pair in expect(history).same}
    assert len(same) == 3
    assert len(expect(history).linked) == 3
    history.nights[0].recipe = [("dedup.threshold", 0.6)]
    assert len(expect(history).linked) == 6


def test_a_seed_is_a_history_and_shrinking_leaves_one_thing_out() -> None:
    history = random_history(7)
    assert history == random_history(7)
    assert History.from_json(history.to_json()).to_json() == history.to_json()
    size = len(history.to_json())
    assert all(len(candidate.to_json()) < size for candidate in smaller(history))
    counted = sum((contains(random_history(seed)) for seed in range(50)), start=contains(history))
    wanted = {"nights without a build", "edits back to an earlier content"}
    wanted |= {"adds", "edits", "removals", "re-adds, same content", "re-adds, other content", "recipe changes"}
    assert all(counted[name] > 0 for name in wanted)


def test_every_day_of_the_campaign_has_histories_of_its_own() -> None:
    today = date(2026, 2, 28)
    days = [range(first, first + HISTORIES) for first in (seed_of_day(today + timedelta(n)) for n in range(3))]
    assert all(later.start >= earlier.stop for earlier, later in pairwise(days))
    assert SEEDS.stop <= days[0].start
    assert random_history(days[0].start) != random_history(days[1].start)
