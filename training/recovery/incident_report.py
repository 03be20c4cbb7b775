"""The report of a run that was given up: what happened, what was tried, what is left to a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def write_report(
    path: Path,
    run: str,
    detected: Mapping[str, Any],
    finding: Mapping[str, Any],
    decisions: Sequence[Mapping[str, Any]],
) -> None:
    """Markdown, for the person who is called."""
    worst, window = detected["worst"], detected["window"]
    lines = [
        f"# Run {run} stopped at step {worst['step']}",
        "",
        f"{worst['kind']}: {worst['value']:.4f}, expected {worst['expected']:.4f} ({worst['sigmas']:.1f} sigma), in steps "
        f"{window['first_step']} to {window['last_step']}. Cause found: {finding['cause']}.",
        "",
        "## Evidence",
        "",
        *(f"- {name}: {value}" for name, value in sorted(finding["evidence"].items())),
        "",
        "## What was tried",
        "",
        "| incident | steps | cause | action | from step | to step | factor | clipped at | sequences replaced |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for decision in decisions:
        amendment = decision["amendment"]
        lines.append(
            f"| {decision['number']} | {decision['first_step']} to {decision['last_step']} | {decision['cause']} | "
            f"{amendment['action']} | {amendment['first_step']} | {amendment['last_step']} | {amendment['factor']} | "
            f"{amendment['max_gradient_norm']} | {len(amendment['replaced'])} |"
        )
    lines += [
        "",
        "## Sequences furthest from the expected loss",
        "",
        "| sequence | step | loss | documents |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {row['sequence']} | {row['step']} | {row['loss']:.4f} | {', '.join(row['doc_ids'])} |"
        for row in finding["ranking"][:20]
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", "utf-8")
