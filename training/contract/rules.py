"""What a shape, a layout and a schedule must be, each rule once: a recipe is checked by them before anything is built, a
request before anything is imported."""

from __future__ import annotations

from dataclasses import dataclass

TP_DEGREES = (1, 2, 4, 8)
INTERLEAVED = "Interleaved1F1B"


@dataclass(frozen=True)
class Shape:
    """Of a Llama, as far as a layout cuts it. `vocabulary` is the padded size."""

    n_layers: int
    n_heads: int
    n_kv_heads: int
    sequence_length: int
    vocabulary: int


@dataclass(frozen=True)
class Layout:
    """How the ranks of a run divide the work."""

    dp_shard: int = 1
    dp_replicate: int = 1
    cp: int = 1
    tp: int = 1
    pp: int = 1
    pipeline_schedule: str = "1F1B"
    microbatch_size: int = 1
    local_batch_size: int = 1
    global_batch_size: int = 1
    precision: str = "float32"
    mask_documents: bool = False

    @property
    def dp(self) -> int:
        """Ranks that read different sequences."""
        return self.dp_shard * self.dp_replicate

    @property
    def ranks(self) -> int:
        """Processes that train together."""
        return self.dp * self.cp * self.tp * self.pp

    @property
    def stages_per_rank(self) -> int:
        """Pipeline stages of one rank; torchtitan's choice for a looped schedule is two."""
        return 2 if self.pp > 1 and self.pipeline_schedule == INTERLEAVED else 1

    @property
    def microbatches(self) -> int:
        """That go through the pipeline before its gradients are complete for this local batch."""
        return self.local_batch_size // self.microbatch_size


def refuse(problems: list[str]) -> None:
    """Raise ValueError with the first problem: inside a validator of pydantic, which names the place."""
    if problems:
        raise ValueError(problems[0])


def head_problems(dim: int, n_heads: int, n_kv_heads: int) -> list[str]:
    """Why no Llama has these heads; empty if one can."""
    if dim % n_heads:
        return [f"dim ({dim}) must be a multiple of n_heads ({n_heads}): each head takes an equal slice"]
    if n_heads % n_kv_heads:
        return [
            f"n_heads ({n_heads}) must be a multiple of n_kv_heads ({n_kv_heads}): each key-value head serves the same "
            "number of heads"
        ]
    if (dim // n_heads) % 2:
        return [f"dim / n_heads = {dim // n_heads} must be even: rotary positions turn pairs of numbers"]
    return []


def schedule_problems(warmup_steps: int, decay_steps: int, total_steps: int) -> list[str]:
    """Why these phases do not fit into a run."""
    if warmup_steps + decay_steps <= total_steps:
        return []
    return [
        f"warmup_steps ({warmup_steps}) + decay_steps ({decay_steps}) exceed total_steps ({total_steps}): there would be no "
        "stable phase"
    ]


def layout_problems(layout: Layout) -> list[str]:
    """Why no shape can be trained on this layout; empty if one can."""
    found = []
    together = layout.local_batch_size * layout.dp
    if layout.global_batch_size % together:
        found.append(
            f"global_batch_size ({layout.global_batch_size}) must be a multiple of local_batch_size * dp_shard * "
            f"dp_replicate ({together}): every rank takes whole micro-batches"
        )
    if layout.tp not in TP_DEGREES:
        found.append(
            f"tp ({layout.tp}) must be 1, 2, 4 or 8: it needs the fast links inside a node, and nodes have 8 GPUs"
        )
    if layout.dp_replicate > 1 and layout.dp_shard * layout.cp == 1 and layout.tp * layout.pp > 1:
        found.append("dp_replicate without dp_shard cannot be combined with tp or pp (torchtitan 0.2.2): use dp_shard")
    if layout.precision == "bfloat16" and layout.tp * layout.pp > 1 and layout.dp_shard * layout.cp == 1:
        found.append(
            "precision bfloat16 with tp or pp needs dp_shard or cp above 1: torchtitan 0.2.2 would train in float32 and "
            "only log it"
        )
    if layout.mask_documents and layout.cp > 1:
        found.append("mask_documents cannot be combined with cp: the mask is not cut along the sequence")
    if layout.pp > 1 and (layout.local_batch_size % layout.microbatch_size or layout.microbatches < layout.pp):
        found.append(
            f"local_batch_size ({layout.local_batch_size}) must be at least pp ({layout.pp}) micro-batches of "
            f"microbatch_size ({layout.microbatch_size}): each stage works on one of them"
        )
    elif layout.stages_per_rank > 1 and layout.microbatches % layout.pp:
        found.append(
            f"local_batch_size / microbatch_size ({layout.microbatches}) must be a multiple of pp ({layout.pp}) with "
            f"{INTERLEAVED}"
        )
    return found


def fit_problems(shape: Shape, layout: Layout) -> list[str]:
    """Why this layout cannot train this shape; empty if it can."""
    found = []
    cut = {"n_heads": shape.n_heads, "n_kv_heads": shape.n_kv_heads, "the padded vocabulary": shape.vocabulary}
    uncut = [f"{name} ({size})" for name, size in cut.items() if size % layout.tp]
    if uncut:
        found.append(f"tp ({layout.tp}) must divide {' and '.join(uncut)}: each rank takes whole heads and equal rows")
    pieces = 2 * layout.tp * layout.cp
    if shape.sequence_length % pieces:
        found.append(
            f"sequence_length ({shape.sequence_length}) must be a multiple of 2 * tp * cp ({pieces}): sequence and context "
            "parallel cut it into equal pieces, and context parallel gives each rank an early and a late one"
        )
    stages = layout.pp * layout.stages_per_rank
    if layout.pp > 1 and stages > shape.n_layers:
        found.append(
            f"pp ({layout.pp}) * stages per rank ({layout.stages_per_rank}) = {stages} stages, but n_layers is "
            f"{shape.n_layers}: every stage needs a layer"
        )
    return found
