"""Evaluation items: our own probes and needles, one JSON object a line in items/*.jsonl.

`load_items` is what the contamination stage reads: the texts that must not be in training.
Probes marked `"taught": true` ("apt-get install") ask for idioms that the corpus is meant to teach;
they are scored but are not items to decontaminate against, or every manual page would be dropped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from assets.build import BuildError

ITEMS_FOLDER = Path(__file__).parent / "items"


class Probe(BaseModel):
    """A target text, the prompt before it and, where there is one, a wrong answer of the same form."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(min_length=1)
    language: Literal["zh", "en"]
    kind: Literal["continuation", "contrast", "sentence", "instruction"]
    prompt: str  # empty for kind = sentence: the whole sentence is the target
    target: str = Field(min_length=1)
    contrast: str | None = Field(default=None, min_length=1)
    taught: bool = False  # an idiom the corpus may hold: not decontaminated

    @property
    def item_text(self) -> str | None:
        """What must not be in training; None for an idiom."""
        return None if self.taught else self.prompt + self.target


class Needle(BaseModel):
    """A sentence to hide in a context, a question about it, the right answer and wrong ones of the same form."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(min_length=1)
    language: Literal["zh", "en"]
    needle: str = Field(min_length=1)
    question: str = Field(min_length=1)
    answer: str = Field(min_length=1)
    distractors: tuple[str, ...] = Field(min_length=1)

    @property
    def item_text(self) -> str:
        """What must not be in training: the fact itself."""
        return self.needle


@dataclass(frozen=True)
class EvaluationItem:
    """One text that must not be in training."""

    id: str
    set: str  # name of the items file: probes, needles
    language: str
    text: str


def load_probes(path: Path = ITEMS_FOLDER / "probes.jsonl") -> list[Probe]:
    """The probability probes, in file order."""
    return list(_read(path, Probe))


def load_needles(path: Path = ITEMS_FOLDER / "needles.jsonl") -> list[Needle]:
    """The needles, in file order."""
    return list(_read(path, Needle))


def load_items() -> list[EvaluationItem]:
    """All texts to keep out of training, sorted by (set, id)."""
    items = [
        EvaluationItem(item.id, name, item.language, item.item_text)
        for name, rows in (("probes", load_probes()), ("needles", load_needles()))
        for item in rows
        if item.item_text is not None
    ]
    return sorted(items, key=lambda item: (item.set, item.id))


def _read(path: Path, model: type[Any]) -> Iterator[Any]:
    seen: set[str] = set()
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            item = model.model_validate(json.loads(line))
        except (json.JSONDecodeError, ValidationError) as error:
            raise BuildError(f"{path.name} line {number} is not a {model.__name__}: {error}") from error
        if item.id in seen:
            raise BuildError(f"{path.name} line {number}: id {item.id!r} is used twice; ids must be unique in the file")
        seen.add(item.id)
        yield item
