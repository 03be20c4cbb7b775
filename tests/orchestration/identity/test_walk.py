"""A build looks at what its stage reads, not at the whole graph."""

from __future__ import annotations

from typing import Any, cast

import pytest

from orchestration.config import Config
from orchestration.identity import status
from orchestration.identity.catalog import Catalog
from orchestration.stages import BY_NAME, STAGES, ancestors


def test_ancestors_are_what_a_stage_reads_directly_or_through_others() -> None:
    for stage in STAGES:
        found = {each.name for each in ancestors(stage)}
        assert {edge.upstream for edge in stage.inputs} <= found
        assert {edge.upstream for name in found for edge in BY_NAME[name].inputs} <= found
    assert [each.name for each in ancestors(BY_NAME["crawl_delta"])] == ["raw_crawl", "crawl_delta"]


def test_a_walk_for_a_stage_judges_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    judged = []

    def judge(stage: Any, key: str | None, *rest: Any) -> status.Item:
        judged.append(stage.name)
        return status.Item(stage.name, key, "fresh")

    monkeypatch.setattr(status, "_judge", judge)
    catalog = Catalog("c", {("raw_crawl", "a@20260101T000000Z"): {"version": "v"}})
    status.walk(catalog, cast("Config", None), of=BY_NAME["extracted_documents"])
    assert set(judged) == {"raw_crawl", "crawl_delta"}
    assert judged.count("raw_crawl") == 1
