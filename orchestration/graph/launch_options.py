"""What can be asked of a run in the launchpad: the options of `headwater run`, typed, under `resources: options: config`.

No `from __future__ import annotations` here: Dagster looks at the types itself.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg
from pydantic import Field

from orchestration.config import Config, ConfigError
from orchestration.publish.evidence import ACCEPT_YIELD_TAG
from orchestration.publish.publisher import ALLOW_STALE_TAG, FORCE_TAG

RESOURCE = "options"


class LaunchOptions(dg.ConfigurableResource):
    """Options of one run. All are off unless a person sets them."""

    allow_stale: bool = Field(default=False, description="Build on stale input; the manifest records it.")
    accept_yield: list[str] = Field(
        default=[],
        description="Sources whose yields may jump in this run, because a person looked at them: names of sources.toml.",
    )
    rebuild: bool = Field(default=False, description="Build the selected assets again although they are fresh.")
    reason: str = Field(default="", description="Why, in your words: the run's tag headwater/reason.")


OPTIONS = LaunchOptions.configure_at_launch()
"""The resource; each run has its own configuration."""


@dataclass(frozen=True)
class Asked:
    """The options of a run, from wherever they came."""

    allow_stale: bool
    rebuild: bool
    accept_yield: frozenset[str]
    reason: str


def asked_of(typed: LaunchOptions, tags: Mapping[str, str], config: Config) -> Asked:
    """What was typed in the launchpad, or set as a tag by `headwater run`. Raises ConfigError for an unknown source."""
    accepted = frozenset({*typed.accept_yield, *filter(None, tags.get(ACCEPT_YIELD_TAG, "").split(","))})
    refuse_unknown_sources(accepted, config.sources)
    return Asked(
        allow_stale=typed.allow_stale or tags.get(ALLOW_STALE_TAG) == "true",
        rebuild=typed.rebuild or tags.get(FORCE_TAG) == "true",
        accept_yield=accepted,
        reason=typed.reason,
    )


def refuse_unknown_sources(named: Collection[str], sources: Collection[str]) -> None:
    """Raises ConfigError unless each is in sources.toml."""
    if unknown := sorted(set(named) - set(sources)):
        known = ", ".join(sorted(sources)) or "none"
        raise ConfigError(f"source(s) {', '.join(unknown)} are not in sources.toml; known: {known}")


def sources_accepted(run_config: Mapping[str, Any], tags: Mapping[str, str]) -> set[str]:
    """The sources that a run to be launched names in `accept_yield`, before anything of it runs."""
    typed: Any = run_config
    for key in ("resources", RESOURCE, "config", "accept_yield"):
        typed = typed.get(key) if isinstance(typed, Mapping) else None
    return {*(typed or ()), *filter(None, tags.get(ACCEPT_YIELD_TAG, "").split(","))}
