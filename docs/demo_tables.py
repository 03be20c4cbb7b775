"""Tables of docs/results/demo.json, one run of the demo, for README and docs/stages; docs/figures.py puts them there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from benchmarks.results import read

Row = dict[str, Any]
CHANNELS = ("zh", "en", "code")
SCORES = {
    "en": ("step", "loss", "bits/byte", "zh", "en", "code", "probes passed", "needles found", "baseline"),
    "zh": ("训练步", "损失", "比特/字节", "中文", "英文", "代码", "通过的概率探针", "找到的针", "基线"),
}
"""Language of the page -> heads of the score table, and the name of its last row."""


def markdown_table(head: Sequence[str], aligned: str, rows: Iterable[Sequence[str]]) -> str:
    """`aligned` has one letter a column: l or r."""
    lines = ["| " + " | ".join(line) + " |" for line in (head, *rows)]
    lines.insert(1, "|" + "|".join({"l": "---", "r": "--:"}[side] for side in aligned) + "|")
    return "\n".join(lines)


def _rows(what: str) -> list[Row]:
    return [row for row in read("demo")["rows"] if row["what"] == what]


def _counts(counted: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counted.items()) or "–"


def _stages() -> str:
    body = [
        [f"`{row['name']}`", f"{row['documents_in']:,}", f"{row['kept']:,}", _counts(row["dropped"])]
        for row in _rows("stage")
        if row["documents_in"] is not None and row["name"] != "document_signatures"
    ]
    return markdown_table(["stage", "in", "kept", "dropped by reason"], "lrrl", body[: _corpus(body) + 1])


def _corpus(body: Sequence[Sequence[str]]) -> int:
    return next(n for n, row in enumerate(body) if row[0] == "`corpus`")


def _trees() -> str:
    reasons = ("kept", "exact_duplicate", "near_duplicate", "language_uncertain", "language_not_wanted")
    body = [
        [row["name"], *(str(row["fates"].get(reason, "–")) for reason in reasons), _counts(row["languages"])]
        for row in _rows("tree")
    ]
    head = ["tree", *(reason.replace("_", " ") for reason in reasons), "what is kept"]
    return markdown_table(head, "lrrrrrl", body)


def _tokenizer() -> str:
    names = ("bytes_per_token", "characters_per_token", "hanzi_per_token", "tokens_per_word")
    found = {row["name"]: row for row in _rows("channel")}
    body = [[c, *("–" if found[c][n] is None else f"{found[c][n]:.2f}" for n in names)] for c in CHANNELS]
    return markdown_table(["channel", *(name.replace("_", " ") for name in names)], "lrrrr", body)


def _mixture() -> str:
    found = {row["name"]: row for row in _rows("channel")}
    names = ("stable_wanted_share", "stable_share", "decay_share", "stable_uses", "decay_uses")
    body = [[channel, *(f"{found[channel][name]:.2f}" for name in names)] for channel in CHANNELS]
    head = ["channel", "planned share", "achieved, stable", "achieved, decay", "uses, stable", "uses, decay"]
    return markdown_table(head, "lrrrrr", body)


def _training() -> str:
    names = ("all", *CHANNELS)
    body = [[str(row["step"]), *(f"{row['training_loss'][n]:.2f}" for n in names)] for row in _rows("checkpoint")]
    return markdown_table(["step", *names], "rrrrr", body)


def _scores(language: str) -> str:
    head, last = SCORES[language][:-1], SCORES[language][-1]
    bits = ("bits/byte", *(f"bits/byte {channel}" for channel in CHANNELS))

    def share(value: Row) -> str:
        return f"{value['value']:.2f} ({value['low']:.2f}–{value['high']:.2f})"

    body = [
        [f"{row['step']:,}", f"{row['loss']:.2f}", *(f"{row[name]:.2f}" for name in bits)]
        + [share(row[name]) for name in ("probes passed", "needles found")]
        for row in _rows("checkpoint")
    ]
    nothing = read("demo")["figures"]["baseline"]
    body.append([last, *(f"{nothing[name]:.2f}" for name in ("loss", *bits, "probes passed", "needles found"))])
    return markdown_table(head, "rrrrrrrr", body)


DEMO_TABLES: dict[str, Callable[[], str]] = {
    "demo-stages": _stages,
    "demo-trees": _trees,
    "demo-tokenizer": _tokenizer,
    "demo-mixture": _mixture,
    "demo-training": _training,
    "demo-scores": partial(_scores, "en"),
    "demo-scores-zh": partial(_scores, "zh"),
}
"""Mark in a document -> what stands there."""
