"""The four tokenizer assets over the library, as the publisher would run them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from assets import schemas
from assets.build import BuildError, Segment, StageReport, UpdatedTables
from assets.delta_table import difference
from assets.schemas import TOKEN_INDEX, TOKENIZER_REPORT
from assets.tables import write_table
from assets.tokenizer import defs
from assets.tokenizer.encoding import END_OF_TEXT, load_tokenizer
from quality.outcome import Evidence
from quality.tokenizer_checks import CHECKS
from tests.assets.tokenizer.library import Doc, corpus_of, document, edited, extracted_of, library
from tests.builds import make_build, published, segment_of

SMALL = {"tokenizer": {"vocab_size": 1024, "min_frequency": 2, "min_bytes_per_token": 0}}
LATER = "books@20240201T000000Z"


def built(
    folder: Path,
    asset: str,
    inputs: list[Segment],
    recipes: dict | None = None,
    previous: Segment | None = None,
    workers: int = 1,
) -> tuple[Segment, StageReport]:
    build = make_build(folder, asset, inputs, recipes, previous=previous, workers=workers, extend=True)
    report = getattr(defs, asset)(build)
    return published(build, report), report


class World:
    """Corpus, extraction and tokenizer over one list of documents."""

    def __init__(self, folder: Path, docs: list[Doc]) -> None:
        self.folder = folder
        self.docs = docs
        self.corpus = corpus_of(folder / "corpus", docs)
        self.extracted = extracted_of(folder / "extracted", docs)

    def tokenizer(self) -> tuple[Segment, Segment]:
        sample, _ = built(self.folder / "sample", "tokenizer_sample", [self.corpus, *self.extracted])
        return built(self.folder / "bpe", "tokenizer", [sample], SMALL)[0], sample


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"), library())


@pytest.fixture(scope="module")
def fitted(world: World) -> tuple[Segment, Segment]:
    return world.tokenizer()


def shards_of(
    folder: Path,
    world: World,
    tokenizer: Segment,
    previous: Segment | None = None,
    workers: int = 1,
    size: int = 400,
    dead: float = 0.25,
) -> tuple[Segment, StageReport]:
    recipe = {"token_shards": {"max_tokens_per_shard": size, "batch_characters": 900, "max_dead_share": dead}}
    return built(
        folder, "token_shards", [world.corpus, tokenizer, *world.extracted], recipe, previous=previous, workers=workers
    )


def decoded(shards: Segment, tokenizer: Segment) -> dict[str, str]:
    bpe = load_tokenizer(tokenizer.path("tokenizer.json"))
    texts = {}
    for row in shards.table("index").to_pylist():
        tokens = np.fromfile(shards.path(row["shard"]), "<u2")[row["offset"] : row["offset"] + row["tokens"]]
        texts[row["doc_id"]] = bpe.decode(tokens.tolist(), skip_special_tokens=False)
    return texts


def test_sample_is_balanced_and_split(world: World, tmp_path: Path) -> None:
    recipe = {"tokenizer_sample": {"max_bytes_per_channel": 1500, "audit_fraction": 0.3}}
    sample, report = built(tmp_path, "tokenizer_sample", [world.corpus, *world.extracted], recipe)
    rows = sample.table("documents").to_pylist()
    assert report.documents_in == len(rows) + sum(report.dropped.values())
    assert set(report.dropped) == {"over_budget"}
    for channel in ("zh", "en", "code"):
        mine = [row for row in rows if row["language"] == channel]
        assert 0 < sum(len(row["text"].encode()) for row in mine) <= 1500
        assert {row["split"] for row in mine} == {"fit", "audit"}
    texts = {doc.doc_id: doc.text for doc in world.docs}
    assert all(row["text"] == texts[row["doc_id"]] for row in rows)


def test_sample_names_what_it_leaves_out(tmp_path: Path) -> None:
    docs = [*library(2), Doc("https://books.example/fr", "fr", "Bonjour"), document("en", 99, sentences=400)]
    world = World(tmp_path, docs)
    recipe = {"tokenizer_sample": {"max_document_bytes": 2000}}
    _, report = built(tmp_path / "s", "tokenizer_sample", [world.corpus, *world.extracted], recipe)
    assert report.dropped == {"channel_not_sampled": 1, "document_too_long": 1}


def test_sample_does_not_depend_on_other_documents_of_the_budget(tmp_path: Path) -> None:
    """A document that was chosen stays chosen when documents of other channels come and go."""
    few, many = (
        World(tmp_path / "a", library(6)),
        World(tmp_path / "b", [*library(6), *(document("zh", n) for n in range(50, 60))]),
    )
    chosen = [
        {
            r["doc_id"]: r["split"]
            for r in built(w.folder / "s", "tokenizer_sample", [w.corpus, *w.extracted])[0]
            .table("documents")
            .to_pylist()
            if r["language"] == "en"
        }
        for w in (few, many)
    ]
    assert chosen[0] == chosen[1]


def test_missing_text_is_an_error(world: World, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="which extracted_documents lacks"):
        built(tmp_path / "a", "tokenizer_sample", [world.corpus])
    others = extracted_of(tmp_path / "x", world.docs[1:])
    with pytest.raises(BuildError, match=r"holds 35 of the 36 documents"):
        built(tmp_path / "b", "tokenizer_sample", [world.corpus, *others])


def test_report_measures_the_audit_split(fitted: tuple[Segment, Segment], tmp_path: Path) -> None:
    tokenizer, sample = fitted
    segment, report = built(tmp_path, "tokenizer_report", [tokenizer, sample])
    assert segment.table("report").schema.names == TOKENIZER_REPORT.names
    rows = {row["channel"]: row for row in segment.table("report").to_pylist()}
    assert list(rows) == ["all", "code", "en", "zh"]
    audit = [row for row in sample.table("documents").to_pylist() if row["split"] == "audit"]
    assert rows["all"]["documents"] == len(audit)
    assert rows["all"]["utf8_bytes"] == sum(len(row["text"].encode()) for row in audit)
    assert rows["all"]["round_trip_failures"] == rows["all"]["end_rule_failures"] == 0
    assert rows["zh"]["hanzi_per_token"] > 1
    assert rows["en"]["hanzi_per_token"] is None
    assert report.stats["specials_parsed_from_text"] == report.stats["tokens_added_around_text"] == 0
    assert ("9.11", "9|.|1|1") in report.samples[0].rows


def test_shards_read_back_are_the_texts(world: World, fitted: tuple[Segment, Segment], tmp_path: Path) -> None:
    shards, report = shards_of(tmp_path, world, fitted[0])
    assert shards.table("index").schema.names == TOKEN_INDEX.names
    assert decoded(shards, fitted[0]) == {doc.doc_id: doc.text + END_OF_TEXT for doc in world.docs}
    assert report.stats["tokens_in_shards"] == report.stats["tokens_in_index"] == report.tokens_out
    assert report.stats["shards"] > 3
    assert report.stats["tokens_not_in_index"] == 0
    sizes = [path.stat().st_size // 2 for name, path in shards.files.items() if name.endswith(".bin")]
    assert max(sizes) <= 400


def test_workers_and_shard_size_do_not_change_the_data(
    world: World, fitted: tuple[Segment, Segment], tmp_path: Path
) -> None:
    one, _ = shards_of(tmp_path / "a", world, fitted[0], workers=1)
    two, _ = shards_of(tmp_path / "b", world, fitted[0], workers=2, size=10_000)
    assert one.version == two.version
    assert one.table("index") != two.table("index")


def updated_world(world: World, folder: Path, docs: list[Doc]) -> World:
    """The world with other documents: its corpus says what changed, its extraction has the new crawls besides."""
    later = World(folder, docs)
    later.extracted = [*world.extracted, *(s for s in later.extracted if s.partition == LATER)]
    build = make_build(folder / "update", "corpus")
    tables = UpdatedTables(build.output, world.corpus)
    tables.write(
        "documents", difference(world.corpus.table("documents"), later.corpus.table("documents")), schemas.CORPUS
    )
    later.corpus = published(build, StageReport(extends=tables.extends))
    return later


def test_an_update_equals_a_build_from_scratch(world: World, fitted: tuple[Segment, Segment], tmp_path: Path) -> None:
    accepted, _ = shards_of(tmp_path / "old", world, fitted[0])
    _, changed, *rest = world.docs
    new = [edited(changed, "完全不同的内容。", LATER), document("en", 77, crawl=LATER)]
    later = updated_world(world, tmp_path / "later", [*rest, *new])
    updated, report = shards_of(tmp_path / "new", later, fitted[0], previous=accepted)
    scratch, _ = shards_of(tmp_path / "scratch", later, fitted[0])
    assert updated.version == scratch.version
    assert decoded(updated, fitted[0]) == decoded(scratch, fitted[0])
    assert report.stats["documents_encoded"] == 2
    assert report.stats["shards_kept"] > 3
    assert report.stats["tokens_not_in_index"] == 0


@pytest.mark.parametrize("dead", [0.0, 0.05, 1.0])
def test_removed_documents_leave_the_shards_when_the_recipe_says_so(
    world: World, fitted: tuple[Segment, Segment], tmp_path: Path, dead: float
) -> None:
    accepted, _ = shards_of(tmp_path / "old", world, fitted[0], dead=dead)
    gone, *rest = world.docs
    later = updated_world(world, tmp_path / "later", rest)
    updated, report = shards_of(tmp_path / "new", later, fitted[0], previous=accepted, dead=dead)
    content = b"".join(updated.path(name).read_bytes() for name in updated.files if name.endswith(".bin"))
    row = next(row for row in accepted.table("index").to_pylist() if row["doc_id"] == gone.doc_id)
    tokens = np.fromfile(accepted.path(row["shard"]), "<u2")[row["offset"] : row["offset"] + row["tokens"]]
    assert gone.doc_id not in updated.table("index")["doc_id"].to_pylist()
    assert report.stats["tokens_not_in_index"] == 0
    assert report.stats["dead_tokens"] == (row["tokens"] if tokens.tobytes() in content else 0)
    assert (tokens.tobytes() in content) == (dead == 1.0)
    assert updated.version == shards_of(tmp_path / "scratch", later, fitted[0], dead=dead)[0].version


def test_many_small_updates_leave_few_shards(world: World, fitted: tuple[Segment, Segment], tmp_path: Path) -> None:
    small = World(tmp_path / "small", world.docs[:3])
    small.extracted = world.extracted
    held, segment = small, shards_of(tmp_path / "first", small, fitted[0], size=10_000)[0]
    for night, doc in enumerate(world.docs[3:20]):
        held = updated_world(held, tmp_path / f"world{night}", [*held.docs, doc])
        segment, report = shards_of(tmp_path / f"shards{night}", held, fitted[0], previous=segment, size=10_000)
        assert report.stats["shards"] <= 5
    assert decoded(segment, fitted[0]) == {doc.doc_id: doc.text + END_OF_TEXT for doc in held.docs}


def test_another_extraction_or_tokenizer_reuses_nothing(
    world: World, fitted: tuple[Segment, Segment], tmp_path: Path
) -> None:
    accepted, _ = shards_of(tmp_path / "old", world, fitted[0])
    rows = world.extracted[0].table("documents").to_pylist()
    rows[0]["text"] += " footer removed"
    write_table(tmp_path / "again", "documents", rows, schemas.DOCUMENTS)
    again = World(tmp_path / "later", world.docs)
    again.corpus = world.corpus
    again.extracted = [segment_of(tmp_path / "again", "extracted_documents", world.docs[0].crawl, "v2")]
    updated, report = shards_of(tmp_path / "new", again, fitted[0], previous=accepted)
    assert report.stats["documents_encoded"] == len(world.docs)
    assert decoded(updated, fitted[0])[rows[0]["doc_id"]] == rows[0]["text"] + END_OF_TEXT
    other, _ = built(
        tmp_path / "bpe", "tokenizer", [fitted[1]], {"tokenizer": SMALL["tokenizer"] | {"vocab_size": 576}}
    )
    updated, report = shards_of(tmp_path / "newer", world, other, previous=accepted)
    assert report.stats["documents_encoded"] == len(world.docs)
    assert set(decoded(updated, other).values()) == {doc.text + END_OF_TEXT for doc in world.docs}


def test_a_damaged_accepted_shard_is_refused(world: World, fitted: tuple[Segment, Segment], tmp_path: Path) -> None:
    accepted, _ = shards_of(tmp_path / "old", world, fitted[0])
    name = next(r["shard"] for r in accepted.table("index").to_pylist() if r["doc_id"] == world.docs[0].doc_id)
    size = accepted.path(name).stat().st_size
    accepted.path(name).unlink()
    accepted.path(name).write_bytes(bytes(size))
    fewer = updated_world(world, tmp_path / "later", world.docs[1:])  # its neighbours in the shard must be moved
    with pytest.raises(BuildError, match="does not hold the"):
        shards_of(tmp_path / "new", fewer, fitted[0], previous=accepted, dead=0.0)


@pytest.mark.parametrize(
    ("asset", "check", "stats", "previous"),
    [
        ("tokenizer_sample", "every_channel_has_text", {"channels_without_documents": ["zh"]}, None),
        ("tokenizer_sample", "channels_are_balanced", {"fit_bytes": {"zh": 10, "en": 1000}}, None),
        ("tokenizer_report", "hanzi_are_compressed", {"hanzi_per_token": {"zh": 1.0}}, None),
        (
            "tokenizer_report",
            "compression_is_not_lost",
            {"bytes_per_token": {"en": 3.0}},
            {"bytes_per_token": {"en": 4.0}},
        ),
        ("token_shards", "tokens_did_not_collapse", {"tokens_in_index": 10}, {"tokens_in_index": 1000}),
    ],
)
def test_checks_can_fail(asset: str, check: str, stats: dict, previous: dict | None) -> None:
    evidence = Evidence({"stats": stats}, {"stats": previous} if previous else None, {}, 0)
    outcome = next(c for c in CHECKS[asset] if c.name == check).run(evidence)
    assert not outcome.passed
