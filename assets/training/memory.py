"""How many bytes one rank holds at the worst moment of a training step, from the recipe alone.

A step has five kinds of worst moment, and the estimate is the largest of them over the ranks of a pipeline:

    loss      every saved activation, and the copies that the loss makes of the logits
    inside    one layer's backward pass: its parameters gathered, its activations, the gradients of its SwiGLU
    after     the end of that layer's backward pass: its gradients whole, not yet scattered
    scatter   FSDP's sum of the gradient of a vocabulary's table, embedding or output, over its ranks
    update    the optimiser's step, when the layers are measured: the weights of before it are still there

Beside them stand the rank's shares of parameters, gradients and AdamW's two averages, always float32.

What is counted are tensors, as `torch.cuda.max_memory_allocated` does, not what a process or its GPU context takes.
The counts were found with torch 2.13 and torchtitan 0.2.2 on a CPU (docs/results/memory.json compares). A GPU
differs in one thing that is known, not measured: its RMSNorm kernel saves less (`_norm_bytes`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from assets.training.parameters import layer_parameters
from assets.training.pipeline import Part, pipeline_parts
from assets.training.run_request import ModelRecipe, TrainingRecipe

Device = Literal["cpu", "cuda"]
FLOAT32 = 4
STATE_BYTES = 3 * FLOAT32
"""Weight and AdamW's two averages of one parameter."""
LOSS_COPIES = 3
"""float32 copies of the logits while the loss runs backwards: log-softmax, its gradient, the logits' gradient."""
LOSS_COPIES_TP = 4
"""torchtitan's loss over logits that are cut along the vocabulary makes one more."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank at its worst moment, by what holds them."""

    moment: str
    state: int
    """Parameters and AdamW's averages."""
    gradients: int
    activations: int
    loss: int
    gathered: int
    """Parameters and gradients of whole layers that FSDP gathers and scatters, buckets of replicas, autocast's casts."""
    pipeline: int
    """What the stages of a pipeline send each other, kept for each micro-batch of the step."""
    watch: int = 0
    """The weights of before an update that is measured (training/watching/layers.py)."""

    @property
    def total(self) -> int:
        """All of it."""
        held = self.state + self.gradients + self.activations + self.loss
        return held + self.gathered + self.pipeline + self.watch


class _Rank:
    """The sizes of one pipeline rank, in bytes."""

    def __init__(
        self,
        model: ModelRecipe,
        training: TrainingRecipe,
        vocabulary: int,
        device: Device,
        watched: bool,
        parts: list[Part],
    ) -> None:
        self.model, self.training, self.device, self.watched, self.parts = model, training, device, watched, parts
        self.width = FLOAT32 if training.precision == "float32" else 2
        self.sharded = training.dp_shard * training.cp > 1
        self.autocast = training.precision == "bfloat16" and not self.sharded
        sequences = training.microbatch_size if training.pp > 1 else training.local_batch_size
        self.tokens = sequences * model.sequence_length // training.cp
        self.layer = layer_parameters(model) // training.tp
        self.table = vocabulary * model.dim // training.tp  # embedding, or output
        self.logits = self.tokens * vocabulary // training.tp

    @property
    def layers(self) -> int:
        return sum(part.layers for part in self.parts)

    @property
    def whole(self) -> int:
        """Parameters that this rank works with."""
        return self.layers * self.layer + self.tables * self.table

    @property
    def tables(self) -> int:
        """How many of embedding and output this rank has."""
        return sum(part.first + part.last for part in self.parts)

    @property
    def own(self) -> int:
        """Parameters whose state this rank keeps: its shard of them."""
        return self.whole // (self.training.dp_shard * self.training.cp)

    @property
    def stream(self) -> int:
        """One residual stream of a micro-batch: tokens x dim elements."""
        return self.tokens * self.model.dim

    def _norm_bytes(self) -> int:
        """Of the tensors that an RMSNorm saves: its input and, without a fused kernel, the scaled input, in float32."""
        stream = self.stream // self.training.tp
        kept = FLOAT32 if self.autocast else self.width
        return 2 * FLOAT32 * stream if self.device == "cpu" else kept * stream

    def layer_bytes(self) -> int:
        """Saved for the backward pass of one block and micro-batch."""
        model, tp = self.model, self.training.tp
        kv_dim = model.dim // model.n_heads * model.n_kv_heads
        gathered = 2 * self.stream * self.width  # what the norms give, whole: the input of wq, wk, wv; of w1, w3
        cut = (2 * model.dim + 2 * kv_dim + 4 * model.ffn_dim) * self.tokens * self.width // tp
        statistics = (model.n_heads + 2) * self.tokens * FLOAT32 // tp
        casts = 3 * self.stream * self.width if self.autocast else 0  # autocast casts a norm's result for each product
        return 2 * self._norm_bytes() + gathered + cut + statistics + casts

    def head_bytes(self) -> int:
        """Saved by the last norm and the output layer."""
        return self._norm_bytes() + self.stream * self.width + self.tokens * FLOAT32

    def loss_bytes(self) -> int:
        copies = LOSS_COPIES_TP if self.training.tp > 1 else LOSS_COPIES
        held = self.width if self.training.pp > 1 else 0  # the last stage still holds the logits
        return (copies * FLOAT32 + held) * self.logits

    def kept_layer_bytes(self, layer: int) -> int:
        """Of a layer that may be computed again: then only its input is kept."""
        mode = self.training.activation_checkpointing
        again = mode == "full" or (mode == "selective" and layer % 2 == 1)
        input_width = FLOAT32 if self.autocast else self.width
        return input_width * self.stream // self.training.tp if again else self.layer_bytes()

    def moments(self) -> list[Memory]:
        """The candidates for the worst moment; one of them is."""
        computing = [
            moment for waiting, held, grows in self._phases() for moment in self._moments(waiting, held, grows)
        ]
        return [*computing, *self._scatters(), *([self._update()] if self.watched else ())]

    def _scatters(self) -> list[Memory]:
        """The table's gradient, its copy in the order of the ranks and, with gloo, one more. With a pipeline the gradients
        that are kept whole are more than that.
        """
        if not self.sharded or self.training.pp > 1:
            return []
        kept = sum(self.kept_layer_bytes(number) for number in range(self.layers))
        copies = (self.width + FLOAT32 * (2 if self.device == "cpu" else 1)) * self.table
        fixed, own = STATE_BYTES * self.own, FLOAT32 * self.own
        ((_, held, _),) = self._phases()
        return [  # the output's before all layers' backward passes, the embedding's after them
            Memory("scatter", fixed, held, kept, 0, copies, 0),
            Memory("scatter", fixed, own, 0, 0, copies, 0),
        ]

    def _update(self) -> Memory:
        own, shard = FLOAT32 * self.own, self.training.dp_shard * self.training.cp
        largest = max(self.table if self.tables else 0, self.model.dim * self.model.ffn_dim // self.training.tp)
        copies = own + FLOAT32 * largest // shard  # and the difference of one parameter at a time
        return Memory("update", STATE_BYTES * self.own, own, 0, 0, 0, self._pipeline_bytes(), copies)

    def _phases(self) -> list[tuple[int, int, bool]]:
        """Bytes of waiting micro-batches, bytes of gradients when a backward pass begins, and whether that adds to them."""
        outer = (
            FLOAT32 * self.own
            if self.training.global_batch_size > self.training.local_batch_size * self.training.layout.dp
            else 0
        )
        if self.training.pp == 1:
            return [(0, outer, not outer)]
        # FSDP keeps the gradients whole until the last micro-batch has come back.
        full = outer + FLOAT32 * self.whole if self.sharded else FLOAT32 * self.own
        most = sum(part.in_flight for part in self.parts)
        if most < self.training.layout.microbatches * len(self.parts):
            return [(self._waiting_bytes(1), full, False)]
        # All micro-batches wait before the first backward pass: when there are gradients, one of them is gone.
        return [(self._waiting_bytes(1), outer, self.sharded or not outer), (self._waiting_bytes(2), full, False)]

    def _moments(self, waiting: int, held: int, grows: bool) -> list[Memory]:
        fixed = STATE_BYTES * self.own
        casts = self.width * (self.layers * self.layer + self.table) if self.autocast else 0
        if self.training.dp_replicate > 1 and not self.sharded:
            casts += FLOAT32 * self.own  # the buckets that whole replicas sum their gradients in
        kept = [self.kept_layer_bytes(number) for number in range(self.layers)]
        head = any(part.last for part in self.parts)
        pipeline = self._pipeline_bytes()
        found = []
        if head:
            activations = waiting + sum(kept) + self.head_bytes()
            gathered = casts + (self._kept_gathered() or (self.width * self.table if self.sharded else 0))
            found.append(Memory("loss", fixed, held, activations, self.loss_bytes(), gathered, pipeline))
        shard = self.training.dp_shard * self.training.cp if self.training.pp == 1 else 1
        done = FLOAT32 * self.table // shard if head else 0
        before = self.table if head else 0  # whose gradients are being scattered while this layer runs
        for number in reversed(range(self.layers)):
            gradients = held + (done if grows else 0)
            saved = waiting + sum(kept[:number])
            passing = self.width * 2 * self.layer + FLOAT32 * before if self.sharded else 0
            buffers = casts + (self._kept_gathered() or passing)
            inside = saved + max(kept[number], self.layer_bytes()) + self._swiglu_bytes()
            down = self.width * self.model.dim * self.model.ffn_dim // self.training.tp
            found.append(Memory("inside", fixed, gradients, inside, 0, buffers + down, pipeline))
            end = saved + self.width * 4 * self.stream // self.training.tp
            fresh = self.width * self.layer  # this layer's gradients, not yet added or scattered
            found.append(Memory("after", fixed, gradients, end, 0, buffers + fresh, pipeline))
            done += FLOAT32 * self.layer // shard
            before = self.layer
        return found

    def _swiglu_bytes(self) -> int:
        """Gradients of activations in the middle of a block's backward pass."""
        cut = self.width * self.tokens * (2 * self.model.ffn_dim + self.model.dim) // self.training.tp
        if self.training.tp == 1:
            return cut
        return cut + 2 * self.width * self.stream  # of a whole norm's result, before the ranks add them up

    def _kept_gathered(self) -> int:
        """With a pipeline torchtitan keeps parameters gathered from the first forward to the last backward pass."""
        return self.width * self.whole if self.sharded and self.training.pp > 1 else 0

    def _waiting_bytes(self, running: int) -> int:
        """Activations of the micro-batches that wait for their backward pass: those in flight but the `running` ones."""
        total, number = 0, 0
        for part in self.parts:
            kept = sum(self.kept_layer_bytes(number + layer) for layer in range(part.layers))
            total += max(0, part.in_flight - running) * kept
            number += part.layers
        return total

    def _pipeline_bytes(self) -> int:
        """Buffers for the activations and gradients that come from the neighbours, one for each micro-batch."""
        edges = sum((not part.first) + (not part.last) for part in self.parts)
        return edges * self.training.layout.microbatches * self.width * self.stream // self.training.tp


def memory_per_rank(
    model: ModelRecipe,
    training: TrainingRecipe,
    vocabulary: int,
    device: Device = "cuda",
    *,
    watched: bool = True,
) -> list[Memory]:
    """The worst moment of each rank of a pipeline (one, without): the first has the embedding, the last the loss.

    Ranks that differ in data, tensor or context parallel alone hold the same. `vocabulary` is the padded size; `watched`:
    layers are measured every so many steps, as they are unless the recipe says never.
    """
    ranks = [_Rank(model, training, vocabulary, device, watched, parts) for parts in pipeline_parts(model, training)]
    return [max(rank.moments(), key=lambda memory: memory.total) for rank in ranks]


def memory_shares(memory: Memory) -> dict[str, int]:
    """Bytes by what holds them, without what is nothing."""
    sizes = asdict(memory)
    del sizes["moment"]
    return {name: size for name, size in sizes.items() if size}
