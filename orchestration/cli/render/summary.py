"""The end of a run: what was made, the scores of its checkpoints, and what a person may type next."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from orchestration.cli.render import tables
from orchestration.cli.render.scores import checkpoint_scores, notes, score_table
from orchestration.identity.catalog import Catalog
from orchestration.process.terminal import console, emit, quoted
from orchestration.stages import BY_NAME, STAGES
from orchestration.upkeep.taken_down import TakenDown
from orchestration.upkeep.taken_down import as_json as taken_down_json


def summary(
    workplace: Any,
    catalog: Catalog,
    steps: Sequence[Any],
    seconds: float,
    gone: Sequence[TakenDown] = (),
    *,
    as_json: bool,
) -> None:
    """The table at the end of a run: documents and tokens per stage, scores per checkpoint, where, what next."""
    shown = bool(steps) or as_json  # where nothing was made, nothing is read to tell of it
    rows = [_summary_row(stage.name, catalog) for stage in STAGES if catalog.keys(stage.name)] if shown else []
    scores = checkpoint_scores(workplace.store, catalog) if shown else None
    if as_json:
        emit(
            {
                "built": [asset for step in steps for asset in step.assets],
                "seconds": round(seconds, 1),
                "assets": rows,
                "home": str(workplace.home),
                "taken_down": taken_down_json(gone),
            }
            | (scores.as_json() if scores else {"scores": []})
        )
        return
    out = console()
    if steps:
        out.print(_stage_table(rows))
        for row in rows:
            if row["dropped"]:
                reasons = quoted(", ".join(f"{reason} {count:,}" for reason, count in row["dropped"].items()))
                out.print(f"  dropped by {row['asset']}: {reasons}")
        if scores:
            out.print(score_table(scores))
            for line in notes(scores):
                out.print(f"  {line}", highlight=False)
    out.print(f"\n{seconds:.0f} s. The data is in {quoted(workplace.store_place)} (branch main).")
    if not _on_path():
        activate = Path(sys.executable).with_name("activate")
        shown = activate.relative_to(Path.cwd()) if activate.is_relative_to(Path.cwd()) else activate
        out.print(f"To have `headwater` on PATH in this shell: `source {quoted(str(shown))}`", soft_wrap=True)
    out.print("Next: `make ui` to click through it · `headwater status` · `headwater lineage URL` · `headwater audit`")


def _on_path() -> bool:
    """Whether `headwater`, typed in the caller's shell, is this installation."""
    found = shutil.which("headwater")
    return found is not None and Path(found).parent == Path(sys.executable).parent


def _summary_row(asset: str, catalog: Catalog) -> dict[str, Any]:
    """Sums over the published partitions (for runs: the newest only)."""
    keys = catalog.keys(asset)
    if BY_NAME[asset].partition == "run":
        keys = keys[-1:]
    manifests = [m for m in (catalog.get(asset, key) for key in keys) if m]
    dropped: dict[str, int] = {}
    for manifest in manifests:
        for reason, count in manifest["report"]["dropped"].items():
            dropped[reason] = dropped.get(reason, 0) + count

    def total(name: str) -> int | None:
        values = [m["report"][name] for m in manifests if m["report"][name] is not None]
        return sum(values) if values else None

    return {
        "asset": asset,
        "partitions": len(keys),
        "documents_in": total("documents_in"),
        "documents_kept": total("documents_kept"),
        "dropped": dict(sorted(dropped.items(), key=lambda item: -item[1])),
        "tokens_out": total("tokens_out"),
        "rows": sum(sum(m["rows"].values()) for m in manifests),
        "bytes": sum(m["bytes"] for m in manifests),
        "seconds": round(sum(m["duration_s"] for m in manifests), 1),
    }


def _stage_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    numbers = ("documents in", "kept", "dropped", "tokens", "rows", "size", "seconds")
    grid = tables.table("\nWhat was made", "asset", *numbers, numbers=numbers)
    for row in rows:

        def number(value: Any) -> str:
            return "" if value is None else f"{value:,}"

        grid.add_row(
            row["asset"] + (f" ({row['partitions']})" if row["partitions"] > 1 else ""),
            number(row["documents_in"]),
            number(row["documents_kept"]),
            number(sum(row["dropped"].values())) if row["documents_in"] is not None else "",
            number(row["tokens_out"]),
            number(row["rows"]),
            tables.size(row["bytes"]),
            f"{row['seconds']:.1f}",
        )
    return grid
