"""What the decisions about incidents change in a run: its order, its learning rate, its clipping, from a step on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Action = Literal["replace_sequences", "lower_learning_rate", "tighten_clipping", "go_on"]


@dataclass(frozen=True)
class Amendment:
    """What one decision changes, from which step on."""

    incident: int
    action: Action
    first_step: int
    """First step that is trained differently."""
    last_step: int | None = None
    """Last such step; None: for good."""
    factor: float = 1.0
    """Of the learning rate."""
    to_plan: bool = False
    """The learning rate is held at the planned one, whatever the schedule gives."""
    max_gradient_norm: float | None = None
    replaced: Mapping[int, int] = field(default_factory=dict)
    """Sequence -> the earlier sequence that is read in its place."""

    def covers(self, step: int) -> bool:
        """Whether a step is trained differently."""
        return self.first_step <= step and (self.last_step is None or step <= self.last_step)

    @property
    def digest(self) -> str:
        """SHA-256 of what it changes."""
        content = {"replaced": sorted(self.replaced.items())} | {
            name: getattr(self, name)
            for name in ("action", "first_step", "last_step", "factor", "to_plan", "max_gradient_norm")
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class Amendments:
    """What all decisions so far change."""

    def __init__(self, amendments: Sequence[Amendment] = ()) -> None:
        self.all = tuple(amendments)
        self.replaced: dict[int, int] = {}
        for amendment in self.all:
            self.replaced |= amendment.replaced

    def learning_rate_factor(self, step: int) -> float:
        """Product of the factors that hold at a step."""
        factor = 1.0
        for amendment in self.all:
            factor *= amendment.factor if amendment.covers(step) else 1.0
        return factor

    def holds_to_plan(self, step: int) -> bool:
        """Whether a step must not have more than its planned learning rate."""
        return any(a.to_plan and a.covers(step) for a in self.all)

    def max_gradient_norm(self, step: int, usual: float) -> float:
        """The tightest clipping that holds at a step."""
        tighter = [a.max_gradient_norm for a in self.all if a.max_gradient_norm is not None and a.covers(step)]
        return min([usual, *tighter])

    def until(self, step: int) -> list[dict[str, Any]]:
        """Those that a checkpoint of this step was trained with: must be equal for it to be continued."""
        return [
            {"incident": a.incident, "action": a.action, "first_step": a.first_step, "digest": a.digest}
            for a in self.all
            if a.action != "go_on" and a.first_step <= step
        ]
