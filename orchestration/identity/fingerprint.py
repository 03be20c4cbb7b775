"""What makes a data set the one it is: configuration, code, libraries and inputs. Everything counts.

The fingerprint decides "already done" and names scratch folders; its parts, kept in the manifest,
say *why* something is stale. The recipe version is the fingerprint without data: what frozen and
pinned edges compare, so that a changed recipe shows through them and new data does not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from orchestration.config import Config
from orchestration.identity.code_version import code_version
from orchestration.identity.equivalences import canonical_code
from orchestration.stages import BY_NAME, Stage


@dataclass(frozen=True)
class Identity:
    """The parts of a fingerprint."""

    config: dict[str, Any]
    code: str
    modules: dict[str, str]
    libraries: dict[str, str]
    inputs: dict[str, dict[str, str]]
    """Upstream asset -> partition ("" if none) -> data version. Empty for frozen edges."""
    recipes: dict[str, str]
    """Upstream asset -> recipe version, for frozen and pinned edges."""

    @property
    def fingerprint(self) -> str:
        """64 hex characters over all parts (modules only explain `code`)."""
        return digest_of({name: part for name, part in self.as_json().items() if name != "modules"})

    def as_json(self) -> dict[str, Any]:
        """For the manifest."""
        return dict(vars(self))


def digest_of(value: Any) -> str:
    """SHA-256 of the canonical JSON of a value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def identity(
    stage: Stage,
    partition: str | None,
    config: Config,
    inputs: Mapping[str, Mapping[str, str]],
) -> Identity:
    """What this stage would be if it were built now from `inputs` (upstream -> partition -> version)."""
    code = code_version(stage)
    return Identity(
        config=config.tables(stage, partition),
        code=canonical_code(stage, code.digest),
        modules=code.modules,
        libraries=code.libraries,
        inputs={asset: dict(sorted(versions.items())) for asset, versions in sorted(inputs.items())},
        recipes={
            edge.upstream: recipe_version(BY_NAME[edge.upstream], partition, config)
            for edge in stage.inputs
            if edge.kind in ("frozen", "pinned")
        },
    )


@cache
def recipe_version(stage: Stage, partition: str | None, config: Config) -> str:
    """Hash of the configuration, code and libraries of a stage and of all its ancestors.

    Sources are left out: what a crawl fetched is evidence, not a recipe.
    """
    if stage.name == "raw_crawl":
        return ""
    code = code_version(stage)
    upstream = {edge.upstream for edge in stage.inputs} - {stage.name}
    return digest_of(
        {
            "config": config.tables(stage, partition),
            "code": canonical_code(stage, code.digest),
            "libraries": code.libraries,
            "upstream": {name: recipe_version(BY_NAME[name], partition, config) for name in sorted(upstream)},
        }
    )[:16]
