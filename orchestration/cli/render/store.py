"""What `verify` and `repair` print about the state of the store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console

from orchestration.cli.render.tables import size
from orchestration.cli.render.takedown import named
from orchestration.identity.catalog import mend_damaged, partition_of
from orchestration.process.terminal import console, emit, quoted
from orchestration.store.contract import REPAIR, VerifyReport
from orchestration.upkeep.taken_down import TakenDown
from orchestration.upkeep.taken_down import as_json as taken_down_json


def verification(report: VerifyReport, gone: Sequence[TakenDown], *, as_json: bool) -> None:
    """Objects checked, damage found, and what was taken down, which is no damage."""
    if as_json:
        emit(asdict(report) | {"taken_down": taken_down_json(gone)})
        return
    out = console()
    _damage(out, report)
    purged = f", {report.purged_objects} purged by takedown" if report.purged_objects else ""
    verdict = "[green]all whole[/]" if not report.damage else f"[red]{len(report.damage)} damaged[/]"
    out.print(f"{report.objects_checked:,} objects, {size(report.bytes_checked)}{purged}: {verdict}")
    _remedies(out, report)
    named(gone, out)


def repaired(done: Sequence[str], report: VerifyReport) -> None:
    """What a repair did, and what it could not mend."""
    out = console()
    for line in done:
        out.print(quoted(line))
    if not done:
        out.print("Nothing was changed.")
    _damage(out, report)
    out.print(f"[red]{len(report.damage)} still damaged[/]" if report.damage else "[green]all whole[/]")
    _remedies(out, report)


def _damage(out: Console, report: VerifyReport) -> None:
    for damage in report.damage:
        out.print(f"[red]{quoted(damage.problem)}[/] {damage.kind} {quoted(damage.sha256)}")
        for path in damage.paths:
            partition = partition_of(path)
            out.print(f"  {quoted(path)}{quoted(f' of {partition}') if partition else ''}")
        if damage.commits:
            more = f" and {len(damage.commits) - 8} more" if len(damage.commits) > 8 else ""
            out.print(f"  in commits {', '.join(c[:12] for c in damage.commits[:8])}{more}")


def _remedies(out: Console, report: VerifyReport) -> None:
    contents = [damage for damage in report.damage if damage.kind == "content"]
    if contents:
        out.print(mend_damaged(path.split("/")[1] for damage in contents for path in damage.paths if "/" in path))
    if len(contents) < len(report.damage):
        out.print(f"{REPAIR} mends what is not a content; without --from, what can be told from the store itself.")
