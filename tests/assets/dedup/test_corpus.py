"""The four assets over small crawls: every document has one fate, whatever the order of crawls and rows."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from assets.build import BuildError
from assets.dedup.corpus import assemble
from assets.dedup.live import LIVE_COLUMNS, live_kept
from assets.schemas import CONTAMINATION, DOCUMENTS, DUPLICATES, FILTERED, LIVE_PAGES
from tests.assets.dedup.worlds import Page, build_dedup, chinese, crawl_segments, english, replace_words

FIRST, SECOND, OTHER = "site@20260101T000000Z", "site@20260201T000000Z", "mirror@20260115T000000Z"
TABLES = (
    ("duplicate_clusters", ("decisions", "pairs")),
    ("contamination", ("decisions",)),
    ("corpus", ("documents", "decisions")),
)
NEEDLE = "The password of the Northbay lighthouse is 7429."


def fates(built) -> dict[str, tuple]:
    """url and crawl -> (live, stage, reason)."""
    return {(row["url"], row["crawl"]): (row["live"], row["stage"], row["drop_reason"]) for row in built.rows("corpus")}


def history() -> dict[str, list[Page]]:
    base = english(1, 200)
    return {
        FIRST: [
            Page("u/kept", base, quality=0.9),
            Page("u/near", replace_words(base, [100])),
            Page("u/bad", english(2), filter_drop="too_short"),
            Page("u/broken", "x", extraction_drop="no_main_content"),
            Page("u/leaks", english(3) + " " + NEEDLE),
            Page("u/gone", english(4)),
            Page("u/edited", english(5)),
            Page("u/back", english(6)),
            Page("u/bad-then-gone", english(7), filter_drop="too_short"),
        ],
        OTHER: [Page("m/kept", base, quality=0.5), Page("m/zh", chinese(1), language="zh")],
        SECOND: [
            Page("u/gone", english(4), change="removed"),
            Page("u/edited", english(50), change="changed"),
            Page("u/back", english(6), change="removed"),
            Page("u/bad-then-gone", english(7), change="removed"),
            Page("u/kept", base, change="unchanged"),
        ],
        "site@20260301T000000Z": [Page("u/back", english(6), change="added", quality=0.7)],
    }


def test_every_fate(tmp_path: Path) -> None:
    built = build_dedup(tmp_path, history())
    third = "site@20260301T000000Z"
    assert fates(built) == {
        ("u/kept", FIRST): (True, None, None),
        ("u/near", FIRST): (True, "duplicate", "near_duplicate"),
        ("m/kept", OTHER): (True, "duplicate", "exact_duplicate"),
        ("m/zh", OTHER): (True, None, None),
        ("u/bad", FIRST): (True, "filters", "too_short"),
        ("u/broken", FIRST): (True, "extraction", "no_main_content"),
        ("u/leaks", FIRST): (True, "contamination", "contaminated"),
        ("u/gone", FIRST): (False, "sources", "removed"),
        ("u/bad-then-gone", FIRST): (False, "sources", "removed"),
        ("u/edited", FIRST): (False, "sources", "replaced"),
        ("u/edited", SECOND): (True, None, None),
        ("u/back", third): (True, None, None),
    }
    kept = {row["url"]: row for row in built.rows("corpus", "documents")}
    assert sorted(kept) == ["m/zh", "u/back", "u/edited", "u/kept"]
    assert kept["u/back"]["crawl"] == third and kept["u/back"]["quality"] == 0.7
    assert kept["u/kept"]["licence"] == "CC-BY-SA-4.0"
    matched = {row["url"]: row["matched_doc_id"] for row in built.rows("corpus") if row["matched_doc_id"]}
    assert matched == {"u/near": kept["u/kept"]["doc_id"], "m/kept": kept["u/kept"]["doc_id"]}
    report = built.reports["corpus"]
    assert report.stats["documents_by_source"] == {"mirror": 2, "site": 7}
    assert report.stats["kept_by_source"] == {"mirror": 1, "site": 3}
    assert report.stats["documents_unaccounted"] == 0


@given(seed=st.integers(0, 10**6))
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_document_has_one_fate_and_history_order_does_not_matter(
    seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Random histories of two sources: the later build order of crawls and the order of pages change nothing."""
    draw = random.Random(seed)
    crawls = _random_history(draw)
    built = build_dedup(tmp_path_factory.mktemp("world"), crawls)
    everything = {
        page.doc_id(crawl.partition("@")[0])
        for crawl, pages in crawls.items()
        for page in pages
        if page.change in ("added", "changed")
    }
    decisions = built.rows("corpus")
    assert [row["doc_id"] for row in decisions] == sorted(everything)
    kept = [row["doc_id"] for row in decisions if row["stage"] is None]
    assert [row["doc_id"] for row in built.rows("corpus", "documents")] == kept
    assert all((row["stage"] is None) == (row["drop_reason"] is None) for row in decisions)
    assert all(row["live"] or row["stage"] == "sources" for row in decisions)

    names = draw.sample(list(crawls), len(crawls))
    shuffled = {name: draw.sample(list(crawls[name]), len(crawls[name])) for name in names}
    again = build_dedup(tmp_path_factory.mktemp("shuffled"), shuffled)
    for asset, tables in TABLES:
        for table in tables:
            assert again.segments[asset].table(table).equals(built.segments[asset].table(table)), (asset, table)


@pytest.mark.slow
@pytest.mark.timeout(900)
@given(seed=st.integers(0, 10**6))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_update_equals_a_build_from_scratch(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """After every crawl (or two) of a random history: the updated tables have the rows and digests of new ones."""
    draw = random.Random(seed)
    crawls = _random_history(draw)
    names = sorted(crawls, key=lambda crawl: crawl.partition("@")[2])
    updated = None
    seen: dict[str, list[Page]] = {}
    while names:
        seen |= {name: crawls[name] for name in [names.pop(0) for _ in range(min(len(names), draw.choice([1, 1, 2])))]}
        folder = tmp_path_factory.mktemp("world")
        updated = build_dedup(folder, seen, base=updated)
        scratch = build_dedup(folder / "scratch", seen)
        for asset, tables in TABLES:
            for table in tables:
                assert updated.segments[asset].table(table).equals(scratch.segments[asset].table(table)), (asset, table)
            assert updated.segments[asset].version == scratch.segments[asset].version, asset
        for part in ("documents_in", "documents_kept", "dropped"):
            assert getattr(updated.reports["corpus"], part) == getattr(scratch.reports["corpus"], part)
        assert updated.reports["corpus"].stats == scratch.reports["corpus"].stats
        for asset in ("duplicate_clusters", "contamination", "corpus"):
            found, wanted = (built.reports[asset].stats for built in (updated, scratch))
            for name in ("documents_by_source", "dropped_by_source"):
                assert found[name] == wanted[name], (asset, name)
            if asset != "corpus":  # whose reasons count documents that are not live, too
                by_reason = Counter[str]()
                for reasons in found["dropped_by_source"].values():
                    by_reason.update(reasons)
                assert by_reason == updated.reports[asset].dropped


def test_an_update_reads_only_what_is_new(tmp_path: Path) -> None:
    crawls = history()
    last = max(crawls, key=lambda crawl: crawl.partition("@")[2])
    before = build_dedup(tmp_path / "before", {name: pages for name, pages in crawls.items() if name != last})
    updated = build_dedup(tmp_path / "after", crawls, base=before)
    for asset in ("contamination", "corpus", "duplicate_clusters"):
        extends = updated.reports[asset].extends
        assert extends is not None and extends.segment.version == before.segments[asset].version
        assert "decisions-00000.parquet" in extends.kept
    changes = updated.segments["corpus"].changes("decisions", before.segments["corpus"].version)
    assert changes is not None
    assert {row["url"] for row in changes.removed.to_pylist()} == {"u/back"}
    assert {row["url"] for row in changes.added.to_pylist()} == {"u/back"}


def test_a_crawl_older_than_those_read_is_built_from_scratch(tmp_path: Path) -> None:
    crawls = history()
    older = {FIRST: crawls[FIRST], OTHER: crawls[OTHER]}
    late = {"site@20250101T000000Z": [Page("u/early", english(9))]}
    before = build_dedup(tmp_path / "before", older)
    updated = build_dedup(tmp_path / "after", older | late, base=before)
    assert updated.reports["corpus"].extends is None
    assert (
        updated.segments["corpus"].version == build_dedup(tmp_path / "scratch", older | late).segments["corpus"].version
    )


def _random_history(draw: random.Random) -> dict[str, list[Page]]:
    crawls: dict[str, list[Page]] = {}
    for source in ("alpha", "beta"):
        held: dict[str, Page] = {}
        for month in range(1, draw.randrange(2, 5)):
            pages = []
            for number in range(5):
                url = f"{source}/{number}"
                now, page = draw.random(), _random_page(draw, url)
                if url not in held and now < 0.6:
                    pages.append(held.setdefault(url, page))
                elif url in held and now < 0.2:
                    pages.append(Page(url, held.pop(url).text, change="removed"))
                elif url in held and now < 0.4 and page.text != held[url].text:
                    held[url] = Page(**{**vars(page), "change": "changed"})
                    pages.append(held[url])
            crawls[f"{source}@2026{month:02d}01T000000Z"] = pages
    return crawls


def _random_page(draw: random.Random, url: str) -> Page:
    """A page whose quality and drops follow from its text, as they do in the real stages."""
    seed = draw.randrange(4)
    text = replace_words(english(seed, 60), draw.sample(range(60), draw.randrange(2)))
    if draw.random() < 0.2:
        text += f" {NEEDLE}"
    drop = "too_short" if seed == 3 else None
    return Page(url, text, quality=len(set(text)) / 100, filter_drop=drop)


def test_inputs_of_different_states_are_refused(tmp_path: Path) -> None:
    segments = {s.asset: s for s in crawl_segments(tmp_path, FIRST, [Page("u/a", english(1)), Page("u/b", english(2))])}
    extracted = segments["extracted_documents"].table("documents")
    filtered = segments["filtered_documents"].table("decisions")
    live = filtered.select(LIVE_COLUMNS)
    nothing, clean = DUPLICATES.empty_table(), CONTAMINATION.empty_table()
    with pytest.raises(
        BuildError, match="2 live documents that the filters kept have no decision in duplicate_clusters"
    ):
        assemble(live, extracted, filtered, nothing, clean)
    with pytest.raises(BuildError, match="1 extracted documents have no row in filtered_documents"):
        assemble(live, extracted, filtered.slice(1), nothing, clean)
    with pytest.raises(BuildError, match="1 live documents have no row in extracted_documents"):
        assemble(live, extracted.slice(1), filtered, nothing, clean)
    with pytest.raises(BuildError, match=f"no filtered_documents, first {FIRST}"):
        live_kept(live, {})


def test_an_empty_world_makes_an_empty_corpus() -> None:
    documents, decisions = assemble(
        LIVE_PAGES.empty_table().select(LIVE_COLUMNS),
        DOCUMENTS.empty_table(),
        FILTERED.empty_table(),
        DUPLICATES.empty_table(),
        CONTAMINATION.empty_table(),
    )
    assert isinstance(documents, pa.Table) and len(documents) == len(decisions) == 0
