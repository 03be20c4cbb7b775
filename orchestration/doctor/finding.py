"""One line of `headwater doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True)
class Finding:
    """What one check found. `severity` says how bad it is when not `ok`: an error stops a run, a warning may bite."""

    name: str
    ok: bool
    severity: Severity
    found: str
    remedy: str


def well(name: str, found: str) -> Finding:
    """Nothing to do."""
    return Finding(name, True, "info", found, "")
