"""Which layers each rank of a pipeline has, and how many micro-batches it keeps alive: torchtitan's and torch's rules."""

from __future__ import annotations

from dataclasses import dataclass

from assets.training.run_request import ModelRecipe, TrainingRecipe

END_LAYERS = 2
"""torchtitan gives the embedding and the output the weight of one layer each when it cuts a model into stages."""


@dataclass(frozen=True)
class Part:
    """One stage of the pipeline."""

    layers: int
    first: bool
    last: bool
    in_flight: int
    """Micro-batches whose activations are alive together at most."""


def stage_layers(n_layers: int, stages: int) -> list[int]:
    """Layers of each stage. The first stages get what does not divide evenly."""
    if stages == 1:
        return [n_layers]
    each, extra = divmod(n_layers + END_LAYERS, stages)
    weights = [each + (stage < extra) for stage in range(stages)]
    return [weight - (stage in (0, stages - 1)) for stage, weight in enumerate(weights)]


def pipeline_parts(model: ModelRecipe, training: TrainingRecipe) -> list[list[Part]]:
    """For each pipeline rank, its stages: one, or with Interleaved1F1B two, of which the second is `pp` further on."""
    stages = training.pp * training.layout.stages_per_rank
    layers = stage_layers(model.n_layers, stages)
    ranks = []
    for rank in range(training.pp):
        alive = _in_flight(rank, training)
        numbers = range(rank, stages, training.pp)
        ranks.append(
            [
                Part(layers[stage], stage == 0, stage == stages - 1, count)
                for stage, count in zip(numbers, alive, strict=True)
            ]
        )
    return ranks


def _in_flight(rank: int, training: TrainingRecipe) -> list[int]:
    """Micro-batches that each stage of the rank has alive when the first backward pass begins."""
    pp, microbatches, chunks = training.pp, training.layout.microbatches, training.layout.stages_per_rank
    if chunks == 1:
        return [min(pp - rank, microbatches)]
    each_round = microbatches // max(1, microbatches // pp)
    forwards = min((chunks - 1) * each_round + 2 * (pp - 1 - rank) + 1, chunks * microbatches)
    alive = [0] * chunks
    for number in range(forwards):
        alive[number // each_round % chunks] += 1
    return alive
