"""What a materialisation shows: a second version costs the bytes that it adds, not its size."""

from __future__ import annotations

from pathlib import Path

from assets.build import Sample, SilentProgress
from orchestration.config import load_config
from orchestration.graph.ui_metadata import main_file, materialization_metadata, sample_table
from orchestration.identity.catalog import prefix
from orchestration.identity.digest import HIDDEN
from orchestration.publish.publisher import Publisher, publish
from orchestration.stages import BY_NAME
from orchestration.store import open_store
from tests.histories.building import write_config
from tests.histories.world import render

PAGES = 60


def stored_bytes(store: Path) -> int:
    return sum(path.stat().st_size for path in (store / "lfs/objects").rglob("*") if path.is_file())


def test_bytes_added_are_what_the_store_grew_by(tmp_path: Path) -> None:
    site = tmp_path / "sites" / "pages"
    site.mkdir(parents=True)
    for number in range(PAGES):
        (site / f"{number:02d}.txt").write_bytes(render(f"en {number}", "text"))
    write_config(tmp_path / "config", tmp_path / "sites", {}, {"pages": "text"}, workers=1)
    store = open_store(str(tmp_path / "store.git"))
    publisher = Publisher(store, load_config(tmp_path / "config"), tmp_path, SilentProgress())
    shown = []
    for night in ("pages@20260101T000000Z", "pages@20260102T000000Z"):
        publish(publisher, "raw_crawl", night)
        before = stored_bytes(tmp_path / "store.git")
        publication = publish(publisher, "crawl_delta", night)
        metadata = materialization_metadata(publication, store)
        folder = prefix(BY_NAME["crawl_delta"], night)
        about = sum(store.stat("main", folder + name).size_bytes for name in HIDDEN)
        assert metadata["bytes added"].value == stored_bytes(tmp_path / "store.git") - before - about
        shown.append((metadata["bytes added"].value, metadata["size"].value))
        (site / "00.txt").write_bytes(render("en 1000", "text"))
    (first, size), (second, later_size) = shown
    assert first == size
    assert 0 < second < later_size


def test_the_columns_shown_are_those_of_the_table_that_the_asset_is_named_after() -> None:
    assert main_file("base_checkpoints", ["amendments.parquet", "checkpoints.parquet"]) == "checkpoints.parquet"
    assert main_file("raw_crawl", ["captures-00001.parquet", "captures-00000.parquet"]) == "captures-00000.parquet"


def test_a_token_of_spaces_is_not_an_empty_cell() -> None:
    shown = sample_table(Sample("tokens", ("token", "note"), (("   ", None), ("\n\t", "a  b"), ("the", ""))))
    cells = [(record.data["token"], record.data["note"]) for record in shown.records]
    assert cells == [("␣␣␣", ""), ("⏎⇥", "a b"), ("the", "")]
