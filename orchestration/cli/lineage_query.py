"""`headwater lineage`: takes whatever a person has in hand and asks the published index."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console

from assets.lineage.queries import (
    CheckpointContent,
    DocumentHistory,
    LineageNotFoundError,
    Matches,
    StepContent,
    by_checkpoint,
    by_doc_id,
    by_step,
    by_url,
)
from orchestration.cli.render import tables
from orchestration.cli.render.takedown import named
from orchestration.identity.catalog import read_catalog, segment
from orchestration.process.terminal import quoted
from orchestration.process.workplace import Workplace
from orchestration.upkeep.taken_down import TakenDown, taken_down
from orchestration.upkeep.taken_down import as_json as taken_down_json

_RUN = r"[a-z0-9][a-z0-9-]*@\d{8}T\d{6}Z"
_STEP = re.compile(rf"({_RUN}):(\d+)")
_CHECKPOINT = re.compile(rf"({_RUN})/(\d+)")
_DOC_ID = re.compile(r"[0-9a-f]{8,32}")
SHOWN = 12


def answer(workplace: Workplace, subject: str, limit: int | None, *, as_json: bool) -> None:
    """Print the answer: of documents at most `limit`, and how many there are. Raises LineageNotFoundError when the
    index knows nothing of the subject."""
    catalog = read_catalog(workplace.store)
    manifest = catalog.get("lineage_index", None)
    if manifest is None:
        raise LineageNotFoundError("no lineage index is published yet; `headwater run` makes one")
    index = segment(workplace.store, catalog.commit, manifest)
    orders = [
        segment(workplace.store, catalog.commit, catalog.manifests["order_manifest", run])
        for run in catalog.partitions("order_manifest")
    ]
    if match := _STEP.fullmatch(subject):
        found: Any = by_step(index, orders, match[1], int(match[2]))
    elif match := _CHECKPOINT.fullmatch(subject):
        found = by_checkpoint(index, orders, match[1], int(match[2]))
    elif _DOC_ID.fullmatch(subject):
        found = by_doc_id(index, subject, limit)
    else:
        found = by_url(index, subject, limit)
    gone = taken_down(workplace.store)
    if as_json:
        tables.emit(_documents_as_json(found, gone) if isinstance(found, Matches) else _as_json(found, gone))
        return
    out = tables.console()
    if isinstance(found, Matches):
        for history in found.documents:
            _print_history(history, out, _of_crawl(gone, history.crawl))
        if found.total > 1:
            _print_count(len(found.documents), found.total, out)
        return
    if isinstance(found, StepContent):
        _print_step(found, out)
    else:
        _print_checkpoint(found, out)
    named(gone, out)


def _as_json(found: StepContent | CheckpointContent, gone: Sequence[TakenDown]) -> dict[str, Any]:
    return asdict(found) | {"taken_down": taken_down_json(gone)}


def _documents_as_json(found: Matches, gone: Sequence[TakenDown]) -> dict[str, Any]:
    documents = [
        asdict(each) | {"taken_down": taken_down_json(_of_crawl(gone, each.crawl))} for each in found.documents
    ]
    return {"total": found.total, "shown": len(documents), "documents": documents}


def _print_count(shown: int, total: int, out: Console) -> None:
    if shown == total:
        out.print(f"{total:,} documents match")
    else:
        out.print(
            f"[yellow]{shown:,} of {total:,} documents that match are shown[/]; `--all` shows them all, `--limit N` more"
        )


def _of_crawl(gone: Sequence[TakenDown], crawl: str) -> list[TakenDown]:
    """What is gone of a document's crawl: perhaps not of this very document, for whole files are taken down."""
    return [each for each in gone if each.partition == crawl]


def _print_history(history: DocumentHistory, out: Console, gone: Sequence[TakenDown] = ()) -> None:
    out.print(f"[bold]{quoted(history.url)}[/]")
    out.print(f"  doc_id {history.doc_id} · source {history.source} · crawl {history.crawl}")
    for each in gone:
        what = "" if each.on_main else ", and main does not name it any more"
        out.print(f"  [yellow]taken down[/]: {quoted(each.path)} ({quoted(each.reason)}){what}", soft_wrap=True)
    if history.stage:
        matched = f" (matched {history.matched_doc_id})" if history.matched_doc_id else ""
        out.print(
            f"  [yellow]not in the corpus[/]: {quoted(history.drop_reason or '')}, decided by {history.stage}{matched}"
        )
    else:
        out.print("  in the corpus")
    for use in history.uses:
        if use.split == "heldout":
            out.print(f"  {use.run}: held out, in no training sequence")
        elif not use.steps and use.quarantined:
            out.print(f"  {use.run}: quarantined ({quoted(use.quarantined)}), in no sequence of the run")
        elif not use.steps:
            out.print(f"  {use.run}: planned, not used")
        else:
            out.print(
                f"  {use.run}: steps {_shorten(use.steps)} ({len(use.sequences)} sequences, {use.tokens_used:,} tokens, "
                f"{use.repeats} repeats); first checkpoint that saw it: {use.first_checkpoint or 'none yet'}"
            )
            if use.quarantined:
                out.print(f"    [yellow]quarantined[/] by a {use.quarantined}: read no more after the run went back")
    if not history.uses:
        out.print("  used by no run")


def _print_step(content: StepContent, out: Console) -> None:
    channels = ", ".join(f"{name} {count:,}" for name, count in content.tokens_by_channel.items())
    out.print(
        f"[bold]{content.run} step {content.step}[/]: sequences {_shorten(content.sequences)}; tokens: {channels}"
    )
    table = tables.table("", "document", "channel", "tokens", "sequences", numbers=["tokens"])
    for document in content.documents:
        where = quoted(document.url or document.doc_id)
        table.add_row(where, quoted(document.channel), f"{document.tokens:,}", _shorten(document.sequences))
    out.print(table)


def _print_checkpoint(content: CheckpointContent, out: Console) -> None:
    loss = "not scored" if content.heldout_loss is None else f"held-out loss {content.heldout_loss:.3f}"
    out.print(f"[bold]{content.run} step {content.step}[/]: {content.tokens_seen:,} tokens, {loss}")
    out.print(f"  weights {content.weights_sha256}")
    out.print(f"  saw {content.documents:,} documents")
    for title, shares in (("source", content.by_source), ("channel", content.by_channel)):
        table = tables.table("", title, "documents", "tokens", numbers=["documents", "tokens"])
        for name, share in shares.items():
            table.add_row(quoted(name), f"{share.documents:,}", f"{share.tokens:,}")
        out.print(table)


def _shorten(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:SHOWN]))
    return shown + (f", ... {numbers[-1]} ({len(numbers)})" if len(numbers) > SHOWN else "")
