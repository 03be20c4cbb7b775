"""Figures that a document quotes from a result file, written there by docs/generate.py, so that they cannot drift.

In a sentence: <!--= NAME EXPRESSION :FORMAT -->what is shown<!--/-->, where EXPRESSION is JMESPath over
docs/results/NAME.json (a list of one is that one) and FORMAT is Python's, with x1000 or x1e-6 before it for a factor.
Whole tables stand between <!-- NAME of TABLES --> and <!-- /NAME of TABLES -->.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

import jmespath
from jmespath.exceptions import JMESPathError

from benchmarks.results import read
from docs.demo_tables import DEMO_TABLES, markdown_table

MARK = re.compile(r"(<!--= (?P<name>\w+) (?P<path>.+?) :(?P<form>\S+) -->)(?P<shown>.*?)(<!--/-->)", re.DOTALL)
BEGINS = re.compile(r"<!--=")
AT_LINE_START = re.compile(r"^[ \t]*<!--= .*$", re.MULTILINE)
"""Markdown would take the line for a block of HTML, and end the paragraph before it."""


class FigureError(ValueError):
    """A mark in a document that no result file answers; the message names mark, value and remedy."""


def rendered(text: str, where: str) -> str:
    """The text with every marked figure as its result file has it."""
    if len(BEGINS.findall(text)) != len(MARK.findall(text)):
        raise FigureError(
            f"{where}: a mark <!--= ... --> is not of the form <!--= NAME EXPRESSION :FORMAT -->x<!--/-->"
        )
    if found := AT_LINE_START.search(text):
        raise FigureError(f"{where}: a line must not begin with a mark, put a word before it: {found[0][:80]}")
    return MARK.sub(lambda match: f"{match[1]}{_figure(match, where)}<!--/-->", text)


def _figure(match: re.Match[str], where: str) -> str:
    factor, _, spec = match["form"].rpartition("x") if match["form"].startswith("x") else ("", "", match["form"])
    try:
        value = jmespath.search(match["path"], read(match["name"]))
    except (OSError, JMESPathError) as error:
        raise FigureError(f"{where}: {match[1]}: {error}") from error
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FigureError(f"{where}: {match[1]} gives {value!r}, not a number: mend the expression or the sentence")
    return format(value * float(factor[1:] or 1) if factor else value, spec)


def quoted(text: str) -> set[str]:
    """Results that the marks and tables of a text quote."""
    tables = {name for table, (name, _) in TABLES.items() if f"<!-- {table} -->" in text}
    return {match["name"] for match in MARK.finditer(text)} | tables


def _dedup_costs() -> str:
    rows = read("bench_dedup")["rows"]
    builds = [row for row in rows if row["what"] == "full build"]
    body = []
    for what, shown in (
        ("full build", "full build"),
        ("update of 1%", "1% removed and 1% added"),
        ("update of a fixed number", "{changed} removed and {changed} added"),
    ):
        found = [row for row in rows if row["what"] == what]
        digits = 1 if what == "full build" else 2
        body.append([shown.format(**found[0]), *(f"{row['cpu_s']:.{digits}f}" for row in found)])
    body.append(["anonymous memory at its peak, full build (MB)", *(f"{row['peak_mb']:.0f}" for row in builds)])
    sizes = [f"{row['documents']:,} documents" for row in builds]
    return markdown_table(["CPU seconds, signing included (`docs/results/bench_dedup.json`)", *sizes], "lrrr", body)


def _samples() -> str:
    body = []
    for row in read("sources")["rows"]:
        counted = Counter(row["rejected"]).most_common()
        rejected = ", ".join(f"{n} {reason}" for reason, n in sorted(counted, key=lambda item: (-item[1], item[0])))
        numbers = [f"{row['records']:,}", f"{row['documents']:,}", rejected or "–", str(row["peak_mib"])]
        body.append([row["kind"], row["sample"], *numbers])
    return markdown_table(["kind", "sample", "records", "documents out", "rejected", "peak MiB"], "llrrlr", body)


def _layouts() -> str:
    rows = [row for row in read("layouts")["rows"] if row["layout"] != "1 process"]
    names = ("loss", "channel_loss", "gradient_norm", "weights")
    body = [[row["layout"], str(row["ranks"]), *(f"{row[name]:.1e}" for name in names)] for row in rows]
    head = ["layout", "ranks", "loss", "loss of a channel", "gradient norm", "final weights"]
    return markdown_table(head, "lrrrrr", body)


def _memory() -> str:
    rows = read("memory")["rows"]
    staged = {row["case"] for row in rows if row["pipeline_rank"]}
    body = [
        [
            row["case"] + (f", stage {row['pipeline_rank']}" if row["case"] in staged else ""),
            f"{row['measured_bytes'] / 1e6:.2f}",
            f"{row['estimated_bytes'] / 1e6:.2f}",
            f"{row['error']:+.1%}",
        ]
        for row in rows
    ]
    return markdown_table(["case", "measured MB", "estimated MB", "error"], "lrrr", body)


KINDS = {
    "control": ("control", ""),
    "garbage": ("garbage", "sequences replaced"),
    "newlines": ("newlines only", "sequences replaced"),
    "learning_rate": ("learning rate", "held to the plan"),
    "hidden_rate": ("learning rate, hidden", "clipping tightened, then the rate lowered"),
}


def _incidents() -> str:
    rows, body = read("incidents")["rows"], []
    for kind, (shown, done) in KINDS.items():
        runs = [row for row in rows if row["kind"] == kind]
        causes = Counter(cause for row in runs for cause in set(row["causes"]))
        found = ", ".join(f"{cause}, in {n}" for cause, n in causes.items()) or "none, no alarm"
        planted = sum(row["planted"] for row in runs)
        documents = f"{sum(row['planted_found'] for row in runs)} of {planted}" if planted else ""
        ends = [row["final_loss_over_control"] for row in runs]
        end = " to ".join(dict.fromkeys((f"{min(ends):.4f}", f"{max(ends):.4f}")))
        accused = str(sum(row["innocent_accused"] for row in runs))
        body.append([shown, str(len(runs)), found, documents, accused, done, end])
    head = ["run", "runs", "cause found", "planted documents found", "innocent accused", "done"]
    return markdown_table([*head, "final loss over control"], "lrlrrlr", body)


TABLES: dict[str, tuple[str, Callable[[], str]]] = {
    "dedup-costs": ("bench_dedup", _dedup_costs),
    "source-samples": ("sources", _samples),
    "layout-curves": ("layouts", _layouts),
    "memory-estimates": ("memory", _memory),
    "incident-runs": ("incidents", _incidents),
    **{mark: ("demo", make) for mark, make in DEMO_TABLES.items()},
}
"""Mark in a document -> (the result, what stands there)."""


def tables_of(text: str) -> dict[str, str]:
    """Mark -> content, of the tables that a text asks for."""
    return {mark: make() for mark, (_, make) in TABLES.items() if f"<!-- {mark} -->" in text}
