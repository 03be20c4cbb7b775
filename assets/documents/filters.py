"""Thin datatrove filters over the rules of heuristics.py: each drops for the first of its rules that breaks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.filters.base_filter import BaseFilter

from assets.documents.blocks import RowWriter
from assets.documents.heuristics import (
    Failure,
    LanguageChoice,
    Rule,
    first_failure,
    quality_score,
    uncertain_language,
    unwanted_language,
    unwanted_script,
)
from assets.documents.language import identify
from assets.documents.signals import measure


class MeasureSignals(PipelineStep):
    """Language, script, every signal and the quality score, once per document, for all filters after it."""

    type = "MEASURE"
    name = "signals"

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Drops nothing."""
        for document in data:
            with self.track_time():
                measure_document(document)
            self.stat_update("total", "forwarded")
            yield document


def measure_document(document: Document) -> None:
    """Write language and signals into the metadata."""
    language = identify(document.text, document.metadata["format"])
    signals = measure(document.text, language.code)
    signals["script_share"] = round(language.script_share, 6)
    document.metadata |= {
        "language": language.code,
        "language_score": language.score,
        "script": language.script,
        "signals": signals,
        "quality": quality_score(signals, language.code, language.score),
        "failure": "",
    }


class ReasonedFilter(BaseFilter):
    """A filter that leaves the broken rule, in words with its numbers, beside the document it drops."""

    type = "FILTER"

    def __init__(self, decisions: RowWriter) -> None:
        super().__init__(exclusion_writer=decisions)  # type: ignore[arg-type]  # it has the two methods that are used

    def failure(self, metadata: Mapping[str, Any]) -> Failure | None:
        """The first broken rule, or None to keep."""
        raise NotImplementedError

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        """BaseFilter's verb."""
        failure = self.failure(doc.metadata)
        if failure is None:
            return True
        doc.metadata["failure"] = failure.words
        return False, failure.reason


class UnwantedLanguageFilter(ReasonedFilter):
    """Drops languages that nobody asked for."""

    name = "language wanted"

    def __init__(self, choice: LanguageChoice, decisions: RowWriter) -> None:
        super().__init__(decisions)
        self.choice = choice

    def failure(self, metadata: Mapping[str, Any]) -> Failure | None:
        return unwanted_language(metadata["language"], metadata["language_score"], self.choice)


class UncertainLanguageFilter(UnwantedLanguageFilter):
    """Drops pages whose language is not clear."""

    name = "language certain"

    def failure(self, metadata: Mapping[str, Any]) -> Failure | None:
        return uncertain_language(metadata["language"], metadata["language_score"], self.choice)


class ScriptFilter(UnwantedLanguageFilter):
    """Drops scripts that nobody asked for."""

    name = "script wanted"

    def failure(self, metadata: Mapping[str, Any]) -> Failure | None:
        return unwanted_script(metadata["script"], self.choice)


class RuleFilter(ReasonedFilter):
    """Drops by the rules of the document's language; `other` are those of a language without its own."""

    def __init__(
        self, name: str, by_language: Mapping[str, tuple[Rule, ...]], other: tuple[Rule, ...], decisions: RowWriter
    ) -> None:
        super().__init__(decisions)
        self.name = name
        self.by_language = dict(by_language)
        self.other = other

    def failure(self, metadata: Mapping[str, Any]) -> Failure | None:
        return first_failure(metadata["signals"], self.by_language.get(metadata["language"], self.other))
