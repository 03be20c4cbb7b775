"""The order manifest of each phase of a run: a file and a digest of its own.

The learning rate decays while other data are read, and several decays may branch off one stable phase: two
runs whose stable phases have the same digest have read the same until then, whatever becomes of them after.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from assets.build import Segment

FINGERPRINT = "fingerprint.json"


@dataclass(frozen=True)
class PhaseOrder:
    """What one phase reads."""

    phase: str
    first_sequence: int
    fingerprint: str
    """Digest of its pieces; a checkpoint names those that it was trained on."""
    files: tuple[Path, ...]


def phase_orders(order: Segment) -> list[PhaseOrder]:
    """The phases of a published order_manifest, in order. One that was published in one piece counts as one phase."""
    phases = json.loads(order.path(FINGERPRINT).read_text("utf-8")).get("phases")
    if phases is None:
        return [PhaseOrder("stable", 0, order.version, tuple(order.parts("order")))]
    return [
        PhaseOrder(entry["phase"], entry["first_sequence"], entry["order_sha256"], (order.path(entry["file"]),))
        for entry in phases
    ]
