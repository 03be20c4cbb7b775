"""Earlier runs with the same stable phase, as folders that the training program can take checkpoints from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from assets.build import Segment

RECORDS = ("metrics.jsonl", "layers.jsonl", "heldout.jsonl", "sequence_losses.f32")
CHECKPOINT = "checkpoints/step-"


def branch_folders(others: Sequence[Segment], request: Mapping[str, Any], folder: Path) -> list[str]:
    """Outputs of other runs that read the same order in their stable phase, with the checkpoints from before the decay.

    Links into the store. Whether a checkpoint fits is for the training program to say.
    """
    schedule = request["schedule"]
    stable_until = schedule["total_steps"] - schedule["decay_steps"]
    found = []
    for number, segment in enumerate(others):
        wanted = [name for name in segment.files if name in RECORDS or 0 < _step(name) <= stable_until]
        markers = [name for name in wanted if name.endswith("/complete.json")]
        if not markers or _order(segment.path(markers[0])) != request["data"]["order_fingerprint"]:
            continue
        root = folder / f"branch-{number}"
        for name in wanted:
            link = root / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(segment.path(name).absolute())
        found.append(str(root))
    return found


def _step(name: str) -> int:
    """Of a checkpoint's file; 0 for any other."""
    return int(name.removeprefix(CHECKPOINT).partition("/")[0]) if name.startswith(CHECKPOINT) else 0


def _order(marker: Path) -> str:
    return str(json.loads(marker.read_text("utf-8"))["order_fingerprint"])
