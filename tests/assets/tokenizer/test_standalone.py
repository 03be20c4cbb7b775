"""Tokenizing plain files gives each document the tokens of the graph."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from assets.build import BuildError, Segment
from assets.schemas import TOKEN_INDEX
from assets.tokenizer.encoding import load_tokenizer
from assets.tokenizer.shards import TokenShardsRecipe
from assets.tokenizer.standalone import Summary, tokenize_files
from tests.assets.tokenizer.library import library
from tests.assets.tokenizer.test_assets import World, shards_of

RECIPE = TokenShardsRecipe.model_validate({"max_tokens_per_shard": 400, "batch_characters": 900})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"), library())


@pytest.fixture(scope="module")
def tokenizer(world: World) -> Segment:
    return world.tokenizer()[0]


def folder_of(folder: Path, world: World) -> Path:
    """The library over two files."""
    folder.mkdir(parents=True)
    texts = {
        row["doc_id"]: row["text"]
        for segment in world.extracted
        for row in segment.table("documents", ["doc_id", "text"]).to_pylist()
    }
    wanted = world.corpus.table("documents", ["doc_id"])["doc_id"].to_pylist()
    for name, ids in (("b.jsonl", wanted[::2]), ("a.jsonl", wanted[1::2])):
        lines = (json.dumps({"id": doc_id, "text": texts[doc_id]}, ensure_ascii=False) for doc_id in reversed(ids))
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_tokens_are_those_of_the_graph_on_any_number_of_workers(
    world: World, tokenizer: Segment, tmp_path: Path
) -> None:
    graph, report = shards_of(tmp_path / "graph", world, tokenizer)
    source = folder_of(tmp_path / "in", world)
    bpe = tokenizer.path("tokenizer.json")
    for workers in (1, 2):
        summary = tokenize_files(source, bpe, tmp_path / f"out{workers}", RECIPE, workers)
    written = sorted(path.name for path in (tmp_path / "out1").iterdir())
    assert written == sorted(path.name for path in (tmp_path / "out2").iterdir())
    for name in written:
        assert (tmp_path / "out1" / name).read_bytes() == (tmp_path / "out2" / name).read_bytes(), name
    index = pq.read_table(tmp_path / "out1/index.parquet")
    assert index.schema.names == TOKEN_INDEX.names
    columns = ["doc_id", "tokens", "token_sha256", "text_sha256"]
    assert index.select(columns).to_pylist() == graph.table("index", columns).to_pylist()
    assert set(index["crawl"].to_pylist()) == {"a.jsonl", "b.jsonl"}
    assert summary == Summary(len(index), summary.characters, report.tokens_out or 0, len(written) - 2)
    first = index.slice(0, 1).to_pylist()[0]
    tokens = np.fromfile(tmp_path / "out1" / first["shard"], dtype="<u2")
    own = tokens[first["offset"] : first["offset"] + first["tokens"]]
    texts = {row["id"]: row["text"] for row in map(json.loads, (source / first["crawl"]).read_text().splitlines())}
    assert load_tokenizer(bpe).decode(own.tolist()[:-1]) == texts[first["doc_id"]]


def test_a_second_call_replaces_the_first(tokenizer: Segment, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    lines = [json.dumps({"id": n, "text": f"{n} " * 300}) for n in range(9)]
    bpe = tokenizer.path("tokenizer.json")
    source.write_text("\n".join(lines))
    assert tokenize_files(source, bpe, tmp_path / "out", RECIPE).shards > 1
    source.write_text(lines[0])
    assert tokenize_files(source, bpe, tmp_path / "out", RECIPE).shards == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "encoding.json",
        "index.parquet",
        "shard-00000.bin",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no document"),
        ('{"id": "a", "text": "x"}\n{"id": "b", "words": 3}\n', "in.jsonl line 2: 'text' must be a string"),
        ('{"id": "a", "text": "x"}\n{"id": "a", "text": "x"}\n', "line 2: id 'a' was used before"),
    ],
)
def test_bad_input_is_named_and_an_earlier_result_stays(
    tokenizer: Segment, tmp_path: Path, content: str, message: str
) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out"
    source.write_text('{"id": "a", "text": "fine"}')
    tokenize_files(source, tokenizer.path("tokenizer.json"), out, RECIPE)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    source.write_text(content)
    with pytest.raises(BuildError, match=message):
        tokenize_files(source, tokenizer.path("tokenizer.json"), out, RECIPE)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_what_is_no_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"id": "a", "text": "x"}')
    (tmp_path / "tokenizer.json").write_text('{"model": 3}')
    for name, message in (("none.json", "no such file"), ("tokenizer.json", "not a tokenizer.json")):
        with pytest.raises(BuildError, match=message):
            tokenize_files(tmp_path / "in.jsonl", tmp_path / name, tmp_path / "out", RECIPE)
