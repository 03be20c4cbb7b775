"""The examples of config/sources.toml are valid tables, one of each kind."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest
from pydantic import ValidationError

from assets.sources.config import SourceConfig
from orchestration.config import tags
from tests.assets.sources.bulk.bulk import table
from tests.end_to_end.harness import REPOSITORY


def examples() -> dict[str, dict[str, Any]]:
    text = (REPOSITORY / "config/sources.toml").read_text(encoding="utf-8")
    lines = [line[2:] for line in text.splitlines() if re.match(r"# (\[[a-z0-9-]+\]|\w+ = |    )", line)]
    return tomllib.loads("\n".join(lines))


def test_each_kind_has_an_example_that_is_valid() -> None:
    sources = {name: SourceConfig.model_validate(keys).root for name, keys in examples().items()}
    assert {source.kind for source in sources.values()} == set(tags(SourceConfig))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"kind": "dataset", "paths": []}, "at least 1 item"),
        ({"kind": "dataset", "paths": ["x"], "columns": {"body": "x"}}, "Extra inputs"),
        ({"kind": "documents", "paths": ["x"], "include": ["../*"]}, "must stay below"),
        ({"kind": "warc", "paths": ["x"], "record_types": ["request"]}, "response"),
        ({"kind": "wikipedia", "paths": ["x"], "language": "ZH"}, "pattern"),
        ({"kind": "pigeon", "paths": ["x"]}, "pigeon"),
    ],
)
def test_rules(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SourceConfig.model_validate(table(**keys))
