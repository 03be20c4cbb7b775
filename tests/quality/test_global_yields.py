"""Yield alarms of the assets without partitions, through the publisher: a dedup that wipes a source or matches nothing."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from assets.build import SilentProgress
from orchestration.config import load_config
from orchestration.identity.catalog import read_catalog
from orchestration.process.workplace import open_workplace
from orchestration.publish.publisher import BlockedError, Publisher, publish
from orchestration.run.driver import Driver, Options, RunFailedError, Step
from orchestration.store import open_store
from tests.end_to_end.harness import CONFIG
from tests.histories.building import write_config
from tests.histories.world import render

PAGES = 24
STAGES = ("crawl_delta", "extracted_documents", "filtered_documents", "document_signatures")
GLOBAL = ("duplicate_clusters", "contamination", "corpus")


class World:
    """Two sources of text files that are crawled night by night, and everything up to the corpus."""

    def __init__(self, folder: Path, state: Path, night: int = 0) -> None:
        self.folder, self.state, self.night = folder, state, night
        self.store = open_store(str(state / "store.git"))
        self.accepted: frozenset[str] = frozenset()

    def configure(self, recipe: dict[str, Any]) -> None:
        write_config(self.folder / "config", self.folder / "sites", recipe, dict.fromkeys(("alpha", "beta"), "text"), 1)

    def write(self, source: str, contents: list[str]) -> None:
        site = self.folder / "sites" / source
        shutil.rmtree(site, ignore_errors=True)
        site.mkdir(parents=True)
        for number, content in enumerate(contents):
            (site / f"{number:02d}.txt").write_bytes(render(content, "text"))

    def crawl(self, source: str) -> None:
        self.night += 1
        for asset in ("raw_crawl", *STAGES):
            publish(self.publisher(), asset, f"{source}@202601{self.night:02d}T000000Z")

    def publisher(self) -> Publisher:
        config = load_config(self.folder / "config")
        return Publisher(self.store, config, self.state, SilentProgress(), accept_yield=self.accepted)

    def build(self) -> dict[str, dict[str, Any]]:
        """Manifests of the global assets, brought up to date."""
        for asset in GLOBAL:
            publish(self.publisher(), asset)
        return self.manifests()

    def manifests(self) -> dict[str, dict[str, Any]]:
        catalog = read_catalog(self.store)
        return {asset: catalog.manifests[asset, None] for asset in GLOBAL}


@pytest.fixture(scope="module")
def known_sources(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Alpha is older than beta, half of which are near duplicates, as a person knows."""
    folder = tmp_path_factory.mktemp("accepted")
    (folder / "state").mkdir()
    world = World(folder, folder / "state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("assets.plots._png", lambda figure: b"")
        world.configure({})
        world.write("alpha", [f"en {number}" for number in range(PAGES)])
        world.write("beta", in_pairs(100))
        world.crawl("alpha")
        world.crawl("beta")
        world.build()
    return world


@pytest.fixture
def world(known_sources: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """The accepted nights in a store of one's own."""
    monkeypatch.setattr("assets.plots._png", lambda figure: b"")
    shutil.copytree(known_sources.state, tmp_path / "state", symlinks=True)
    copy = World(known_sources.folder, tmp_path / "state", known_sources.night)
    copy.configure({})
    return copy


def in_pairs(first: int) -> list[str]:
    """Pages of beta: each second one is a near duplicate of the one before it."""
    return [f"en {first + n // 2} light 1" if n % 2 else f"en {first + n // 2}" for n in range(PAGES)]


def served(world: World) -> list[dict[str, Any]]:
    """What a blocked dedup keeps back: contamination does not read it, and goes on."""
    manifests = world.manifests()
    return [manifests["duplicate_clusters"], manifests["corpus"]]


def mirror(world: World) -> None:
    """Beta becomes a copy of alpha."""
    world.write("beta", [f"en {n}" for n in range(PAGES)])


def test_a_dedup_that_wipes_a_source_is_blocked_until_a_person_accepts_it(world: World) -> None:
    before = world.manifests()["duplicate_clusters"]
    assert before["report"]["stats"]["dropped_by_source"] == {"beta": {"near_duplicate": 12}}
    mirror(world)
    world.crawl("beta")
    with pytest.raises(BlockedError) as refused:
        world.build()
    words = str(refused.value)
    assert "beta: all gone: exact_duplicate drops 100.0% (24 of 24), usually 0.0%" in words
    assert "silence: near_duplicate drops 0.0% (0 of 24), usually 50.0%" in words
    assert re.search(r"'reason': 'exact_duplicate', 'doc_id': '[0-9a-f]{32}', 'url': 'file:///beta/", words)
    assert "alpha" in words.split("'matched': '", 1)[1].split("'", 1)[0]
    world.accepted = frozenset({"alpha"})
    with pytest.raises(BlockedError):
        world.build()
    assert world.manifests()["duplicate_clusters"] == before
    world.accepted = frozenset({"beta"})
    world.build()
    world.accepted = frozenset()
    world.write("beta", [f"en {n}" for n in range(1, PAGES)])
    world.crawl("beta")
    history = world.build()["duplicate_clusters"]["yield_history"]["beta"]  # what was accepted is usual from now on
    assert history == [
        {"documents_in": PAGES, "dropped": {"near_duplicate": 12}},
        {"documents_in": PAGES, "dropped": {"exact_duplicate": PAGES}, "accepted": True},
    ]


def test_the_driver_keeps_the_corpus_that_it_has_until_the_source_is_accepted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("recipes/tiny.toml", "models/tiny.toml"):
        (world.folder / "config" / name).parent.mkdir(exist_ok=True)
        shutil.copy(CONFIG / name, world.folder / "config" / name)
    places = {"HOME": world.state, "CONFIG": world.folder / "config", "STORE": world.state / "store.git"}
    for name, place in places.items():
        monkeypatch.setenv(f"HEADWATER_{name}", str(place))
    monkeypatch.setenv("DAGSTER_HOME", str(world.state / "dagster"))
    workplace = open_workplace()
    mirror(world)
    world.crawl("beta")
    before = served(world)
    step = Step("curate_job", None, GLOBAL)
    with pytest.raises(RunFailedError) as refused:
        Driver(workplace, Options("tiny")).execute(step)
    words = str(refused.value)
    assert "duplicate_clusters: 1 blocking check(s) failed: yields_are_like_before: beta: all gone" in words
    assert "`headwater run --accept-yield beta`" in words
    assert served(world) == before
    Driver(workplace, Options("tiny", accept_yield=("beta",))).execute(step)
    manifests = world.manifests()
    assert manifests["corpus"]["report"]["documents_kept"] == PAGES
    assert manifests["corpus"]["accepted_sources"] == manifests["duplicate_clusters"]["accepted_sources"] == ["beta"]
    assert "exact_duplicate drops 100.0%" in manifests["corpus"]["accepted_yields"][0]


def test_a_dedup_that_matches_nothing_is_blocked(world: World) -> None:
    world.configure({"dedup.threshold": 1.0})
    with pytest.raises(BlockedError) as refused:
        world.build()
    words = str(refused.value)
    assert "beta: silence: near_duplicate drops 0.0% (0 of 24), usually 50.0% (accepted before: 50.0%)" in words
    assert "'source': 'beta', 'reason': 'kept'" in words


def test_a_source_that_suddenly_holds_evaluation_items_is_blocked(world: World) -> None:
    world.write("beta", [*in_pairs(200)[:5], *(f"item {n}" for n in range(19))])
    world.crawl("beta")
    with pytest.raises(
        BlockedError, match=r"beta: jump: contaminated drops 39\.6% \(19 of 48\).*'doc_id': '"
    ) as refused:
        publish(world.publisher(), "contamination")
    assert "'reason': 'contaminated'" in str(refused.value)
    world.accepted = frozenset({"beta"})
    assert publish(world.publisher(), "contamination").manifest["accepted_sources"] == ["beta"]
