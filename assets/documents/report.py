"""What the two stages say of themselves: counts, samples of keeps and drops, plots. Rows stream through `see`."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from assets.build import Sample, StageReport
from assets.plots import grouped_bars, histogram

Row = Mapping[str, Any]

SAMPLES_PER_REASON = 5
SAMPLES_KEPT = 8
EXCERPT_CHARACTERS = 200


class _Samples:
    """The first rows of each label in doc_id order: a hash order, so as good as random, and always the same."""

    def __init__(self) -> None:
        self.rows: dict[str, list[tuple[Any, ...]]] = defaultdict(list)

    def offer(self, label: str, row: tuple[Any, ...], limit: int) -> None:
        if len(self.rows[label]) < limit:
            self.rows[label].append(row)

    def of(self, labels: Sequence[str]) -> tuple[tuple[Any, ...], ...]:
        return tuple(row for label in labels for row in self.rows.get(label, ()))


class ExtractionTally:
    """Collects the report of extracted_documents."""

    def __init__(self) -> None:
        self.kept = 0
        self.dropped: Counter[str] = Counter()
        self.formats: Counter[str] = Counter()
        self.characters: dict[str, list[int]] = defaultdict(list)
        self.samples = _Samples()

    def see(self, row: Row) -> None:
        """One row of the merged table, with its `detail`."""
        reason = row["drop_reason"]
        if reason is None:
            self.kept += 1
            self.formats[row["format"]] += 1
            self.characters[row["format"]].append(len(row["text"]))
            text = row["text"]
            self.samples.offer("", (row["url"], row["format"], len(text), row["title"], excerpt(text)), SAMPLES_KEPT)
        else:
            self.dropped[reason] += 1
            self.samples.offer(reason, (reason, row["url"], row["detail"]), SAMPLES_PER_REASON)

    def report(self) -> StageReport:
        """Counts, statistics, samples, plots."""
        total = self.kept + sum(self.dropped.values())
        lengths = [n for values in self.characters.values() for n in values]
        return StageReport(
            documents_in=total,
            documents_kept=self.kept,
            dropped=dict(self.dropped),
            stats={
                "formats": dict(sorted(self.formats.items())),
                "characters": sum(lengths),
                "mean_characters": round(sum(lengths) / len(lengths), 1) if lengths else 0.0,
                "failed_share": _share(self.dropped["extraction_failed"] + self.dropped["extraction_timeout"], total),
                "undecodable_share": _share(self.dropped["undecodable"], total),
            },
            samples=[
                Sample("Extracted", ("url", "format", "characters", "title", "text"), self.samples.of([""])),
                Sample("Dropped", ("reason", "url", "why"), self.samples.of(sorted(self.dropped))),
            ],
            plots={
                "Why captures were dropped": grouped_bars("captures", {"reason": self.dropped or {"none": 0}}),
                "Length of texts": histogram("characters", self.characters, logarithmic=True),
            },
        )


class FilterTally:
    """Collects the report of filtered_documents."""

    def __init__(self, keep_languages: Sequence[str]) -> None:
        self.keep_languages = tuple(keep_languages)
        self.seen: Counter[str] = Counter()
        self.kept: Counter[str] = Counter()
        self.kept_characters: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.by_language: dict[str, Counter[str]] = defaultdict(Counter)
        self.scripts: Counter[str] = Counter()
        self.domains: Counter[str] = Counter()
        self.lengths: dict[str, list[int]] = defaultdict(list)
        self.quality: dict[str, list[float]] = defaultdict(list)
        self.samples = _Samples()

    def see(self, row: Row) -> None:
        """One row of the merged table, with its `failure` and `excerpt`."""
        language, reason = row["language"], row["drop_reason"]
        self.seen[language] += 1
        if reason is None:
            self.kept[language] += 1
            self.kept_characters[language] += row["characters"]
            self.scripts[row["script"] or "none"] += 1
            self.domains[row["domain"] or "none"] += 1
            self.lengths[language].append(row["characters"])
            self.quality[language].append(row["quality"])
            kept = (language, row["url"], row["characters"], row["quality"], row["excerpt"])
            self.samples.offer(f"kept {language}", kept, SAMPLES_KEPT // 2)
        else:
            self.dropped[reason] += 1
            self.by_language[language][reason] += 1
            dropped = (reason, row["failure"], language, row["url"], row["excerpt"])
            self.samples.offer(reason, dropped, SAMPLES_PER_REASON)

    def _drops_of_wanted(self, reason: str) -> int:
        return sum(self.by_language[language][reason] for language in self.keep_languages)

    def report(self) -> StageReport:
        """Counts, statistics, samples, plots."""
        wanted = {language: self.seen[language] for language in self.keep_languages}
        drops = {
            language: dict(sorted(self.by_language[language].items()))
            for language in sorted(self.by_language)
            if language in self.keep_languages
        }
        return StageReport(
            documents_in=sum(self.seen.values()),
            documents_kept=sum(self.kept.values()),
            dropped=dict(self.dropped),
            stats={
                "languages_seen": _sorted(self.seen),
                "languages_kept": _sorted(self.kept),
                "characters_kept": _sorted(self.kept_characters),
                "kept_outside_keep_languages": sum(
                    count for language, count in self.kept.items() if language not in self.keep_languages
                ),
                "drops_by_language": {
                    f"{name}/{reason}": n for name, counts in drops.items() for reason, n in counts.items()
                },
                "yield_by_language": {name: _share(self.kept[name], count) for name, count in wanted.items() if count},
                "wanted_seen": sum(wanted.values()),
                "wanted_yield": _share(sum(self.kept.values()), sum(wanted.values())),
                "largest_drop_share": _share(
                    max(map(self._drops_of_wanted, self.dropped), default=0), sum(wanted.values())
                ),
                "scripts_kept": _sorted(self.scripts),
                "domains_kept": _sorted(self.domains),
                "mean_quality": round(_mean([q for values in self.quality.values() for q in values]), 4),
            },
            samples=[
                Sample(
                    "Kept",
                    ("language", "url", "characters", "quality", "text"),
                    self.samples.of([f"kept {language}" for language in sorted(self.kept)]),
                ),
                Sample(
                    "Dropped",
                    ("reason", "broken rule", "language", "url", "text"),
                    self.samples.of(sorted(self.dropped)),
                ),
            ],
            plots={
                "Why documents of wanted languages were dropped": grouped_bars(
                    "documents", drops or {"none": {"none": 0}}
                ),
                "Languages seen": grouped_bars("documents", {"seen": self.seen, "kept": self.kept}),
                "Length of kept documents": histogram("characters", self.lengths, logarithmic=True),
                "Quality of kept documents": histogram("quality", self.quality),
            },
        )


def excerpt(text: str) -> str:
    """The start of a text on one line, as samples show it."""
    return " ".join(text[: 2 * EXCERPT_CHARACTERS].split())[:EXCERPT_CHARACTERS]


def _sorted(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items()))


def _share(part: int, whole: int) -> float:
    return round(part / whole, 6) if whole else 0.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
