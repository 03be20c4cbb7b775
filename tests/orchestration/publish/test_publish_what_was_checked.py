"""Two processes, or two homes on one store, build the same partition: what reaches main is what was checked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from assets.build import SilentProgress
from orchestration.config import load_config
from orchestration.identity.catalog import read_catalog
from orchestration.process.asset_lock import AlreadyRunningError
from orchestration.publish.publisher import BlockedError, Publisher, publish
from orchestration.publish.staged import NotWhatWasCheckedError, Publication, Staged
from orchestration.stages import BY_NAME
from orchestration.store import open_store
from quality.asset_checks import NamedOutcome
from quality.outcome import CheckOutcome
from tests.histories.building import write_config
from tests.histories.world import render

CRAWL, NIGHT = BY_NAME["raw_crawl"], "pages@20260101T000000Z"


class World:
    """One store, and as many homes as a test asks for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.site = folder / "sites" / "pages"
        self.site.mkdir(parents=True)
        for number in range(3):
            (self.site / f"{number}.txt").write_bytes(render(f"en {number}", "text"))
        write_config(folder / "config", folder / "sites", {}, {"pages": "text"}, workers=1)
        self.store = open_store(str(folder / "store.git"))

    def publisher(self, home: str) -> Publisher:
        return Publisher(self.store, load_config(self.folder / "config"), self.folder / home, SilentProgress())


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def staged(result: Staged | Publication) -> Staged:
    assert isinstance(result, Staged)
    return result


def failing(what: Staged) -> Staged:
    """The same, had a blocking check failed."""
    return replace(what, checks=(*what.checks, NamedOutcome("planted", True, CheckOutcome(False, "bad"))))


def test_the_lock_is_held_until_what_was_staged_is_merged(world: World) -> None:
    first, second = world.publisher("home"), world.publisher("home")
    with first.publishing(CRAWL, NIGHT) as result:
        with pytest.raises(AlreadyRunningError), second.publishing(CRAWL, NIGHT):
            pass
        first.merge(staged(result))
    with second.publishing(CRAWL, NIGHT) as result:
        assert isinstance(result, Publication)
        assert result.already_done


def test_data_whose_check_failed_does_not_reach_main_through_the_merge_of_another_home(world: World) -> None:
    ours, theirs = world.publisher("home"), world.publisher("another")
    with ours.publishing(CRAWL, NIGHT) as checked:
        (world.site / "0.txt").write_bytes(render("en 99", "text"))
        with theirs.publishing(CRAWL, NIGHT) as blocked:
            assert staged(blocked).branch == staged(checked).branch
            with pytest.raises(BlockedError, match="planted"):
                theirs.merge(failing(staged(blocked)))
        with pytest.raises(NotWhatWasCheckedError, match=r"is at .*, not at"):
            ours.merge(staged(checked))
    assert read_catalog(world.store).partitions("raw_crawl") == []
    manifest = publish(ours, "raw_crawl", NIGHT).manifest
    assert read_catalog(world.store).get("raw_crawl", NIGHT) == manifest


def test_stage_stage_merge_merge(world: World) -> None:
    ours, theirs = world.publisher("home"), world.publisher("another")
    with ours.publishing(CRAWL, NIGHT) as first, theirs.publishing(CRAWL, NIGHT) as second:
        with pytest.raises(NotWhatWasCheckedError):
            ours.merge(staged(first))
        publication = theirs.merge(staged(second))
        with pytest.raises(NotWhatWasCheckedError, match="at no commit"):
            ours.merge(staged(first))
    assert read_catalog(world.store).get("raw_crawl", NIGHT) == publication.manifest


def test_what_was_staged_is_not_merged_without_its_lock_nor_under_another_manifest(world: World) -> None:
    publisher = world.publisher("home")
    with publisher.publishing(CRAWL, NIGHT) as result:
        other = replace(staged(result), manifest={**staged(result).manifest, "version": "0" * 64})
        with pytest.raises(NotWhatWasCheckedError, match="manifest"):
            publisher.merge(other)
    with pytest.raises(NotWhatWasCheckedError, match="lock was given back"):
        publisher.merge(staged(result))
    assert read_catalog(world.store).partitions("raw_crawl") == []
