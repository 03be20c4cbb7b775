"""All checks of an asset, run over its evidence: the limits of thresholds.py and its own rules."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import quality
from quality.expectations import check_limits
from quality.outcome import Check, CheckOutcome, Evidence
from quality.thresholds import LIMITS, Limit


@dataclass(frozen=True)
class NamedOutcome:
    """The verdict of one named check."""

    name: str
    blocking: bool
    outcome: CheckOutcome

    def as_json(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            "name": self.name,
            "blocking": self.blocking,
            "passed": self.outcome.passed,
            "description": self.outcome.description,
            "metadata": self.outcome.metadata,
        }

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> NamedOutcome:
        """The inverse of `as_json`."""
        return cls(
            entry["name"],
            entry["blocking"],
            CheckOutcome(entry["passed"], entry["description"], dict(entry["metadata"])),
        )


@dataclass(frozen=True)
class CheckSpec:
    """What the graph declares of a check before it ever ran."""

    name: str
    blocking: bool
    description: str


@cache
def custom_checks() -> dict[str, tuple[Check, ...]]:
    """Asset -> its own rules, collected from quality/<group>_checks.py."""
    found: dict[str, tuple[Check, ...]] = {}
    for module in sorted(each.name for each in iter_modules(quality.__path__) if each.name.endswith("_checks")):
        if module != __name__.rpartition(".")[2]:
            found.update(import_module(f"quality.{module}").CHECKS)
    return found


def limits_of(asset: str) -> list[Limit]:
    """Rows of quality/thresholds.py for one asset."""
    return [limit for limit in LIMITS if limit.asset == asset]


def check_specs(asset: str) -> list[CheckSpec]:
    """All checks of an asset, in the order they run."""
    specs = [CheckSpec(c.name, c.blocking, c.description) for c in custom_checks().get(asset, ())]
    for limit in limits_of(asset):
        low = "" if limit.minimum is None else f"{limit.minimum:g} <= "
        high = "" if limit.maximum is None else f" <= {limit.maximum:g}"
        specs.append(CheckSpec(limit.check, limit.blocking, f"{low}{limit.statistic}{high}: {limit.reason}"))
    return specs


def run_checks(asset: str, evidence: Evidence) -> Iterator[NamedOutcome]:
    """Run every check of an asset. A check that raises is a bug and propagates: it never passes silently."""
    for check in custom_checks().get(asset, ()):
        yield NamedOutcome(check.name, check.blocking, check.run(evidence))
    for limit, outcome in check_limits(limits_of(asset), evidence):
        yield NamedOutcome(limit.check, limit.blocking, outcome)
