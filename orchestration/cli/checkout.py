"""`headwater checkout`: a published checkpoint as a folder for transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer


def add_checkout_command(
    app: typer.Typer, expected_errors: Callable[[Callable[..., None]], Callable[..., None]]
) -> None:
    """Register it under the error handling of the main command."""
    app.command("checkout")(expected_errors(checkout_model))


def checkout_model(
    subject: Annotated[
        str, typer.Argument(metavar="RUN/STEP", help="A checkpoint; RUN: its last step; RECIPE: its newest run's.")
    ],
    folder: Annotated[Path, typer.Argument(help="Folder to make; it may be there if it is empty.")],
    allow_stale: Annotated[bool, typer.Option(help="Also one that is stale; its README.md says so.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of sentences.")] = False,
) -> None:
    """Write weights, tokenizer and release card of a checkpoint into a folder that transformers loads."""
    from dataclasses import asdict

    from orchestration.process.terminal import console, emit, listed, quoted
    from orchestration.process.workplace import open_workplace
    from orchestration.upkeep.checkout.writing import checkout

    workplace = open_workplace()
    done = checkout(workplace.store, workplace.config, subject, folder, allow_stale=allow_stale)
    if json:
        emit(asdict(done))
        return
    out = console()
    which = f"{done.run}/{done.step}"
    if not subject.endswith(f"/{done.step}"):
        which += f" (the last of its steps {listed([str(step) for step in done.steps], 12)})"
    out.print(
        f"{which} is in {quoted(done.folder)}: {', '.join(done.files)}; {sum(done.files.values()):,} bytes",
        soft_wrap=True,
    )
    for note in done.notes:
        out.print(f"[yellow]note[/]: {quoted(note)}", soft_wrap=True)
    name = repr(done.folder)
    out.print(f"AutoModelForCausalLM.from_pretrained({name})", markup=False, soft_wrap=True)
    out.print(f"AutoTokenizer.from_pretrained({name})", markup=False, soft_wrap=True)
