"""What is printed of takedowns: what remains after one, and what is gone, in each command that tells of the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.console import Console

from orchestration.cli.render.tables import size
from orchestration.process.terminal import console, emit, quoted
from orchestration.upkeep.taken_down import TakenDown, by_partition, sentence

if TYPE_CHECKING:
    from orchestration.upkeep.takedown import Takedown

SHOWN = 40


def takedown(done: Takedown, *, as_json: bool) -> None:
    """What was deleted and what remains; never that anything is gone."""
    if as_json:
        emit(asdict(done))
        return
    out, search = console(), done.search
    for sha256 in done.sha256s:
        out.print(f"{'taken down' if done.deleted else 'would be taken down'}: {sha256}", soft_wrap=True)
    if done.deleted:
        out.print(f"{size(done.freed_bytes)} deleted in the store; all packs of the home are deleted.")
    if not search.sentences:
        out.print("[red]Nothing was searched[/]: these objects have no text to search for. --text SENTENCE gives one.")
        return
    covered = "" if not search.documents else f" of {search.documents_covered:,} of {search.documents:,} documents"
    out.print(f"\nSearched {search.files:,} files for {search.sentences:,} sentences{covered}.", highlight=False)
    for each in search.found:
        place = "the home" if each.place == "home" else each.place
        label = f" ({each.asset}{f'[{each.partition}]' if each.partition else ''})" if each.asset else ""
        out.print(f"[red]remains[/] in {quoted(place)}: {quoted(each.path + label)}", soft_wrap=True, highlight=False)
        out.print(f"  {each.sentences} sentence(s); {quoted(each.remedy)}", soft_wrap=True, highlight=False)
    verdict = (
        f"[red]The text is still in {len(search.found):,} files.[/]"
        if search.found
        else "No other copy was found, which does not mean that there is none."
    )
    out.print(verdict)
    if search.unreadable:
        out.print(f"{len(search.unreadable):,} files hold no text that can be read (--json lists them).")
    out.print("Not searched: " + "; ".join(search.never_searched) + ".", soft_wrap=True, highlight=False)


def named(gone: Sequence[TakenDown], out: Console) -> None:
    """What was taken down, by partition; nothing where nothing was."""
    parts = by_partition(gone)
    for number, files in enumerate(parts.values()):
        if number == SHOWN:
            out.print(f"... and {len(parts) - SHOWN} more partitions (--json)")
            break
        out.print(
            f"[yellow]taken down[/]: {quoted(files[0].label)}: {quoted(sentence(files))}",
            soft_wrap=True,
            highlight=False,
        )
    others = len({each.sha256 for each in gone if not each.on_main})
    if others:
        out.print(f"taken down: {others:,} object(s) that main does not name any more; nothing on main needs them.")
