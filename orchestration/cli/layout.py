"""`headwater layout`: which layout to train a model with on given GPUs, and what each of them will hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def add_layout_command(app: typer.Typer, expected_errors: Callable[[Callable[..., None]], Callable[..., None]]) -> None:
    """Add the command under the error handling of the main command."""
    app.command("layout")(expected_errors(layout))


def layout(
    model: Annotated[str, typer.Argument(help="A file in config/models/, without .toml.")],
    gpus: Annotated[int, typer.Option(help="How many.", min=1)],
    gpu_memory_gib: Annotated[float, typer.Option(help="Of each.", min=1.0)] = 80.0,
    gpus_per_node: Annotated[int, typer.Option(help="Joined by fast links.", min=1)] = 8,
    global_batch_size: Annotated[
        int | None, typer.Option(help="Sequences per step; default: about 4 million tokens.", min=1)
    ] = None,
    sequence_length: Annotated[int | None, typer.Option(help="Instead of the model's.", min=2)] = None,
    vocabulary: Annotated[
        int | None, typer.Option(help="Of the tokenizer; default: what curation.toml asks for.", min=2)
    ] = None,
    precision: Annotated[Literal["bfloat16", "float32"], typer.Option(help="Of matrix products.")] = "bfloat16",
    json: Json = False,
) -> None:
    """Advise a layout for a model on given GPUs: data parallel first, the rest only if memory requires, with reasons.

    Nothing is run. The memory is an estimate of the tensors on one GPU; docs/training.md says how near it comes.
    """
    from assets.training.layout import GIB, Hardware, advise
    from assets.training.run_request import padded_vocabulary
    from assets.training.shape_rules import shape_advice
    from orchestration.cli.render import tables
    from orchestration.config import load_config, load_model

    shape = load_model(model)
    if sequence_length:
        shape = shape.model_copy(update={"sequence_length": sequence_length})
    size = vocabulary or load_config().curation["tokenizer"]["vocab_size"]
    hardware = Hardware(gpus, int(gpu_memory_gib * GIB), gpus_per_node)
    advice = advise(shape, hardware, padded_vocabulary(size), global_batch_size, precision)
    tables.layout(advice, shape_advice(shape, size), as_json=json)
