"""The orders that a request names, opened."""

from __future__ import annotations

from training.contract.request import TrainRequest
from training.data.order_dataset import OrderReader


def open_order(request: TrainRequest) -> OrderReader:
    """The planned order, before any amendment."""
    model = request.model
    return OrderReader(request.data, model.sequence_length, model.vocab_size, request.lookup, request.decay_from)


def open_heldout(request: TrainRequest) -> OrderReader:
    """The order of the held-out sample."""
    data = request.data.model_copy(update={"order": request.watch.heldout, "decay": None})
    return OrderReader(data, request.model.sequence_length, request.model.vocab_size, request.lookup)
