"""Which layout to train a shape with on given GPUs: a ladder, of which the first rung that fits is taken.

Data parallel comes first, because it costs no speed: FSDP2 inside each node with replicas beside it (HSDP), then FSDP2
over all GPUs. Where memory does not suffice, every second layer's activations are computed again (a sixth more work),
then all of them (a third more); only then tensor, context and pipeline parallel, each with the same three steps.
Offload to the CPU is never needed on the ladder and has no rung: sharding over one more node is faster than a PCIe bus.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

from assets.build import BuildError
from assets.training.memory import Memory, memory_per_rank, memory_shares
from assets.training.run_request import ModelRecipe, TrainingRecipe
from assets.training.shape_rules import shape_problems
from training.contract.rules import TP_DEGREES, layout_problems

GIB = 2**30
USABLE_SHARE = 0.9
"""Of a GPU's memory, for tensors. Assumption, not measured: the CUDA context, NCCL's buffers and fragmentation take the rest."""
FLOPS = 400e12
NODE_BYTES_PER_S = 450e9
NETWORK_BYTES_PER_S = 50e9
"""An H100's bfloat16 at 40% of its peak, its NVLink, and one 400 Gbit/s network card for each: for the advice on traffic."""
FSDP_BYTES_PER_PARAMETER = 8
"""Gathered twice in bfloat16, its gradient scattered once in float32."""
CP_DEGREES = PP_DEGREES = (1, 2, 4, 8, 16)
CHECKPOINTING: tuple[Literal["none", "selective", "full"], ...] = ("none", "selective", "full")
BATCH_TOKENS = 4 * 2**20
"""Tokens of a step if no batch is given: what Llama 3's runs began with."""


@dataclass(frozen=True)
class Hardware:
    """GPUs of one kind."""

    gpus: int
    memory_bytes: int
    gpus_per_node: int = 8

    @property
    def usable_bytes(self) -> int:
        """For tensors, of each GPU."""
        return int(USABLE_SHARE * self.memory_bytes)


@dataclass(frozen=True)
class Rung:
    """A layout that was considered."""

    training: TrainingRecipe
    memory: Memory | None
    verdict: str

    @property
    def name(self) -> str:
        """For instance `dp_shard 8 x dp_replicate 4, tp 2, selective`."""
        recipe = self.training
        degrees = [f"{name} {getattr(recipe, name)}" for name in ("dp_shard", "dp_replicate", "tp", "cp", "pp")]
        shown = [text for text in degrees if not text.endswith(" 1")] or ["one GPU"]
        again = recipe.activation_checkpointing
        return ", ".join(shown) + ("" if again == "none" else f", {again} checkpointing")


@dataclass(frozen=True)
class LayoutAdvice:
    """The layout to take, what was tried before it, and why it is this one."""

    chosen: Rung
    tried: tuple[Rung, ...]
    reasons: tuple[str, ...]

    @property
    def memory(self) -> Memory:
        """Of the pipeline rank that needs most."""
        assert self.chosen.memory is not None, "a layout that fits was measured against the GPU"
        return self.chosen.memory

    @property
    def recipe(self) -> dict[str, Any]:
        """The keys for [training] of a recipe."""
        names = ("dp_shard", "dp_replicate", "tp", "cp", "pp", "activation_checkpointing", "precision")
        names += ("global_batch_size", "local_batch_size")
        return {name: getattr(self.chosen.training, name) for name in names}


def advise(
    model: ModelRecipe,
    hardware: Hardware,
    vocabulary: int,
    global_batch_size: int | None = None,
    precision: Literal["float32", "bfloat16"] = "bfloat16",
) -> LayoutAdvice:
    """The first layout of the ladder that fits. `vocabulary` is the padded size.

    Raises BuildError naming the smallest that was found, when none fits.
    """
    batch = global_batch_size or _default_batch(model, hardware.gpus)
    tried: list[Rung] = []
    for training in _ladder(model, hardware, batch, precision):
        rung = _judge(model, training, vocabulary, hardware)
        if rung.verdict == "fits":
            chosen = _largest_local_batch(model, rung, vocabulary, hardware)
            return LayoutAdvice(chosen, tuple(tried), tuple(_reasons(model, hardware, chosen.training, tried)))
        tried.append(rung)
    sized = [rung for rung in tried if rung.memory is not None]
    if not sized:
        why = sorted({rung.verdict for rung in tried}) or ["no number of data-parallel ranks divides the batch"]
        raise BuildError(
            f"no layout of {hardware.gpus} GPUs can train this shape with {batch} sequences per step: "
            f"{'; '.join(why[:3])}. Choose a number of GPUs that divides the batch, or change the batch"
        )
    least = min(sized, key=lambda rung: rung.memory.total if rung.memory else 0)
    assert least.memory is not None
    raise BuildError(
        f"no layout of {hardware.gpus} GPUs of {hardware.memory_bytes / GIB:g} GiB fits: the smallest, {least.name}, needs "
        f"{least.memory.total / GIB:.1f} GiB of the {hardware.usable_bytes / GIB:.1f} that tensors may take "
        f"({USABLE_SHARE:.0%}). Take more GPUs, larger ones, or shorter sequences"
    )


def _default_batch(model: ModelRecipe, gpus: int) -> int:
    return gpus * max(1, round(BATCH_TOKENS / model.sequence_length / gpus))


def _ladder(model: ModelRecipe, hardware: Hardware, batch: int, precision: str) -> Iterator[TrainingRecipe]:
    """Layouts in order of preference. Combinations that divide nothing evenly are left out."""
    splits = [
        (tp, cp, pp) for tp, cp, pp in product(TP_DEGREES, CP_DEGREES, PP_DEGREES) if tp <= hardware.gpus_per_node
    ]
    splits.sort(
        key=lambda split: (split[0] * split[1] * split[2], split[2], split[1])
    )  # tensor parallel before the others
    for tp, cp, pp in splits:
        dp, rest = divmod(hardware.gpus, tp * cp * pp)
        if rest or not dp or batch % (dp * pp):
            continue
        in_node = max(1, hardware.gpus_per_node // (tp * cp))
        shards = [dp] if dp <= in_node or dp % in_node or in_node == 1 else [in_node, dp]
        for again, dp_shard in product(CHECKPOINTING, shards):
            yield TrainingRecipe.model_validate({}).model_copy(
                update={
                    "dp_shard": dp_shard,
                    "dp_replicate": dp // dp_shard,
                    "tp": tp,
                    "cp": cp,
                    "pp": pp,
                    "activation_checkpointing": again,
                    "precision": precision,
                    "global_batch_size": batch,
                    "local_batch_size": pp,
                }
            )


def _judge(model: ModelRecipe, training: TrainingRecipe, vocabulary: int, hardware: Hardware) -> Rung:
    problems = [*layout_problems(training.layout), *shape_problems(model, training, vocabulary)]
    if problems:
        return Rung(training, None, problems[0])
    memory = max(memory_per_rank(model, training, vocabulary, "cuda"), key=lambda rank: rank.total)
    if memory.total > hardware.usable_bytes:
        largest, size = max(memory_shares(memory).items(), key=lambda item: item[1])
        return Rung(training, memory, f"too large: {largest} alone: {size / GIB:.1f} GiB")
    return Rung(training, memory, "fits")


def _largest_local_batch(model: ModelRecipe, rung: Rung, vocabulary: int, hardware: Hardware) -> Rung:
    """More sequences at once, as far as memory allows: parameters are gathered once for all of them."""
    batch = rung.training.global_batch_size // rung.training.layout.dp
    for local in range(batch, rung.training.local_batch_size, -1):
        if batch % local == 0:
            larger = _judge(model, rung.training.model_copy(update={"local_batch_size": local}), vocabulary, hardware)
            if larger.verdict == "fits":
                return larger
    return rung


def _reasons(model: ModelRecipe, hardware: Hardware, training: TrainingRecipe, tried: list[Rung]) -> Iterator[str]:
    model_parallel = training.tp * training.cp * training.pp
    if model_parallel == 1 and training.activation_checkpointing == "none":
        yield "data parallel alone fits: no other axis, and nothing is computed twice"
    too_many = hardware.gpus > training.global_batch_size
    if too_many:
        yield (
            f"a step has {training.global_batch_size:,} sequences for {hardware.gpus:,} GPUs: at least "
            f"{-(-hardware.gpus // training.global_batch_size)} of them must share a sequence, however much memory they have"
        )
    if training.dp_replicate > 1:
        yield (
            f"a shard group is one node ({training.dp_shard} GPUs): parameters are gathered over its fast links, and only "
            f"gradients cross the network between {training.dp_replicate} replicas"
        )
    again = training.activation_checkpointing
    if again != "none":
        cost = {"selective": "a sixth", "full": "a third"}[again]
        yield f"{again} activation checkpointing costs about {cost} more work: no rung with less of it fits"
    for name, why in (("tp", "inside a node"), ("cp", "along the sequence"), ("pp", "by layers")):
        if getattr(training, name) > 1:
            yield f"{name} {getattr(training, name)} ({why}), because {'of the batch' if too_many and not tried else 'no layout with fewer such ranks fits'}"
    if training.cp > 1:
        yield "no machine that this was built on could run context parallel: try it on few GPUs before you rent many"
    if training.pp > 1:
        count = training.layout.microbatches
        yield f"{training.pp - 1} of {count + training.pp - 1} pipeline slots are idle (bubble)"
    yield from _traffic(model, hardware, training)


def _traffic(model: ModelRecipe, hardware: Hardware, training: TrainingRecipe) -> Iterator[str]:
    """FSDP's messages hide behind the products of the same micro-batch, if it has tokens enough."""
    if training.dp_shard == 1:
        return
    crosses = training.dp_shard * training.tp * training.cp > hardware.gpus_per_node
    link = NETWORK_BYTES_PER_S if crosses else NODE_BYTES_PER_S
    needed = FSDP_BYTES_PER_PARAMETER / link * FLOPS / 6
    tokens = training.local_batch_size * model.sequence_length // training.cp
    enough = (
        "enough" if tokens >= needed else "too few: raise local_batch_size if memory allows, or shard over fewer GPUs"
    )
    yield (
        f"FSDP's traffic hides behind {needed:,.0f} tokens per rank and micro-batch on H100s ("
        f"{'across nodes' if crosses else 'inside a node'}); here are {tokens:,}: {enough}"
    )
