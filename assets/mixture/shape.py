"""The size of a run, as far as the data plan needs it: how many sequences of how many tokens, in which phases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError, model_validator
from pydantic import Field as PydanticField

from assets.build import BuildError

STABLE = "stable"
DECAY = "decay"


class RunShape(BaseModel):
    """Read from the recipe tables [training] and [model]; their other keys do not change the plan."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    total_steps: PositiveInt
    decay_steps: int = PydanticField(ge=0)
    global_batch_size: PositiveInt
    sequence_length: PositiveInt

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.decay_steps > self.total_steps:
            raise ValueError(f"decay_steps ({self.decay_steps}) exceed total_steps ({self.total_steps})")
        return self

    @classmethod
    def read(cls, recipes: Mapping[str, Mapping[str, Any]]) -> RunShape:
        """The shape of the run; raises BuildError naming each key that is missing or wrong."""
        try:
            return cls.model_validate({**recipes.get("model", {}), **recipes.get("training", {})})
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'phases'}: {e['msg']}" for e in error.errors())
            raise BuildError(f"[training] and [model] of the run's recipe do not give its size: {problems}") from None

    @property
    def window(self) -> int:
        """Tokens of one sequence: inputs and targets are its two shifted views."""
        return self.sequence_length + 1

    @property
    def sequences(self) -> int:
        """Sequences of the whole run."""
        return self.total_steps * self.global_batch_size

    def phases(self) -> list[tuple[str, int, int]]:
        """(phase, first sequence, sequences), in order; a run without decay has one."""
        decay = self.decay_steps * self.global_batch_size
        found = [(STABLE, 0, self.sequences - decay), (DECAY, self.sequences - decay, decay)]
        return [phase for phase in found if phase[2]]
