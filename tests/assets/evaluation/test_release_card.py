"""The card: all sections, numbers from the tables, the same bytes twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from assets import schemas
from assets.build import BuildError, Segment, StageReport
from assets.evaluation import defs
from assets.tables import write_table
from tests.assets.evaluation.conftest import RUN, TEXTS, doc_id
from tests.builds import make_build, segment_of


@pytest.fixture(scope="module")
def inputs(world: dict[str, Segment], tmp_path_factory: pytest.TempPathFactory) -> list[Segment]:
    root = tmp_path_factory.mktemp("card")
    found = [world["mixture_manifest"], world["base_checkpoints"]]
    for asset, table in (("perplexity", defs.perplexity), ("needle_in_haystack", defs.needle_in_haystack)):
        build = make_build(root / asset, asset, world.values())
        report = table(build)
        found.append(segment_of(build.output, asset, RUN, report=report))
    (root / "plain").mkdir()
    probes = StageReport(stats={"pass_rate": 0.5, "passed": {"1": 20, "3": 29}})
    found.append(segment_of(root / "plain", "probability_probes", RUN, report=probes))
    found.append(segment_of(root / "plain", "compute_plan", RUN, report=StageReport(stats={"flops": 1.5e12})))
    found += [_corpus(root / "corpus"), _incidents(root / "incidents")]
    return found


def _corpus(folder: Path) -> Segment:
    documents, decisions = [], []
    for number, (prefix, (language, domain, _, text)) in enumerate(TEXTS.items()):
        row = {"doc_id": doc_id(prefix), "url": f"https://example.org/{prefix}", "source": "library", "crawl": "c"}
        decisions.append(row | {"live": True, "stage": None, "drop_reason": None, "matched_doc_id": None})
        row |= {"licence": "CC-BY-4.0" if number else None, "language": language, "script": "Latn", "domain": domain}
        row |= {"format": "text", "quality": 1.0, "characters": len(text), "utf8_bytes": len(text.encode())}
        documents.append(row | {"cluster_id": doc_id(prefix)})
    documents[2]["licence"] = None  # c3 trains without a stated licence
    dropped = {"doc_id": doc_id("g7"), "url": "https://example.org/g7", "source": "library", "crawl": "c"}
    decisions.append(dropped | {"live": True, "stage": "filtered_documents", "drop_reason": "too_short"})
    write_table(folder, "documents", documents, schemas.CORPUS)
    write_table(folder, "decisions", decisions, schemas.CORPUS_DECISIONS)
    return segment_of(folder, "corpus")


def _incidents(folder: Path) -> Segment:
    row = {"run": RUN, "step": 2, "kind": "loss_spike", "value": 9.0, "expected": 4.0, "deviation_sigma": 7.0}
    row |= {"doc_ids": [doc_id("c3")], "urls": ["https://example.org/a|b"]}
    write_table(folder, "incidents", [row], schemas.INCIDENTS)
    return segment_of(folder, "loss_incidents", RUN)


def test_the_card_shows_what_the_tables_say(inputs: list[Segment], tmp_path: Path) -> None:
    build = make_build(tmp_path, "release_card", inputs, partition=RUN)
    report = defs.release_card(build)
    page = (build.output / "card.md").read_text(encoding="utf-8")
    facts = json.loads((build.output / "card.json").read_text(encoding="utf-8"))

    assert report.stats["missing_sections"] == 0
    assert report.stats["unpinned_inputs"] == 0
    assert report.stats["unscored_checkpoints"] == 0
    assert report.stats["train_documents"] == 3
    assert report.stats["train_documents_without_licence"] == 1
    assert facts["data"]["dropped"] == [{"stage": "filtered_documents", "drop_reason": "too_short", "documents": 1}]
    assert [row["licence"] for row in facts["data"]["sources"]] == ["CC-BY-4.0", "not stated"]
    assert facts["scores"]["probability_probes"]["pass_rate"] == 0.5
    assert facts["training"]["lowest_loss_step"] == 3
    assert "## What this model is not" in page
    assert "https://example.org/a\\|b" in page  # a bar in a URL does not break the table


def test_the_same_inputs_give_the_same_card(inputs: list[Segment], tmp_path: Path) -> None:
    pages = []
    for name in ("one", "two"):
        build = make_build(tmp_path / name, "release_card", inputs, partition=RUN)
        defs.release_card(build)
        pages.append([(build.output / file).read_bytes() for file in ("card.md", "card.json")])
    assert pages[0] == pages[1]


def test_any_further_evaluation_is_on_the_card(inputs: list[Segment], tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    another = segment_of(tmp_path / "plain", "copying_in_context", RUN, report=StageReport(stats={"gain": 0.25}))
    build = make_build(tmp_path, "release_card", [*inputs, another], partition=RUN)
    defs.release_card(build)
    facts = json.loads((build.output / "card.json").read_text(encoding="utf-8"))
    assert set(facts["scores"]) == {
        "perplexity",
        "probability_probes",
        "needle_in_haystack",
        "copying_in_context",
    }
    page = (build.output / "card.md").read_text(encoding="utf-8")
    assert "### Copying in context\n\n|  | value |\n| --- | --- |\n| gain | 0.25 |" in page
    assert page.count("\n### ") == 3, "what has a section of its own is no evaluation"


def test_a_missing_input_is_named(inputs: list[Segment], tmp_path: Path) -> None:
    build = make_build(tmp_path, "release_card", [s for s in inputs if s.asset != "loss_incidents"])
    with pytest.raises(BuildError, match="exactly one version of loss_incidents, found 0"):
        defs.release_card(build)
