"""The loss of each document piece of chosen sequences under the weights of now, on any layout.

Forward passes only, through the same model, schedule and loss as training: the pieces take the place of the channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch
from torch.distributed.fsdp import FSDPModule

from training.data.amended_order import AmendedReader, Amending, OrderDocuments
from training.data.order_dataset import OrderReader
from training.watching.reduction import batch_rank, summed_over_tokens

if TYPE_CHECKING:
    from training.trainer import OrderedTrainer


def score_pieces(
    trainer: OrderedTrainer, numbers: np.ndarray, open_reader: Callable[[], OrderReader], amending: Amending
) -> pa.Table:
    """sequence, piece, doc_id, channel, tokens, loss of ascending sequences: equal on all ranks, which must all call it.

    `tokens` counts predicted tokens: the first of a sequence is predicted by nothing.
    """
    request = trainer.request
    documents = OrderDocuments(open_reader(), amending).pieces(numbers)
    reader = AmendedReader(open_reader, amending)
    columns = int(documents["piece"].to_numpy().max()) + 1
    together = request.local_batch_size * request.parallelism.dp
    padded = np.concatenate([numbers, np.full(-len(numbers) % together, numbers[-1])])
    sums = torch.zeros(2, len(padded), columns, dtype=torch.float64)
    of_training = trainer.channel_loss.columns
    trainer.channel_loss.columns, trainer.channel_loss.divisor = columns, 1.0
    for begin in range(batch_rank(trainer.parallel_dims) * request.local_batch_size, len(padded), together):
        mine = slice(begin, begin + request.local_batch_size)
        distinct, rows = np.unique(padded[mine], return_inverse=True)
        block = reader.read(distinct)
        _forward(trainer, torch.from_numpy(block.tokens[rows]), torch.from_numpy(block.pieces[rows]))
        sums[:, mine] = trainer.channel_loss.take()
    trainer.channel_loss.columns = of_training
    for part in trainer.model_parts:
        for module in part.modules():
            if isinstance(module, FSDPModule):
                module.reshard()  # a backward pass would have: a checkpoint finds no whole parameters
    sums = summed_over_tokens(sums, trainer.parallel_dims)
    rows = np.searchsorted(numbers, documents["sequence"].to_numpy())
    losses, tokens = sums[:, rows, documents["piece"].to_numpy()].numpy()
    documents = documents.append_column("tokens", pa.array(tokens.astype(np.int64)))
    documents = documents.append_column("loss", pa.array(losses / np.maximum(tokens, 1)))
    return documents.drop_columns(["length"])


@torch.no_grad()
def _forward(trainer: OrderedTrainer, tokens: torch.Tensor, pieces: torch.Tensor) -> None:
    """One local batch; its sums are left in the loss."""
    batch = {"input": tokens[:, :-1], "channels": pieces[:, 1:]}
    if trainer.request.mask_documents:
        batch["documents"] = pieces[:, :-1]
    batch = {name: values.to(trainer.device) for name, values in batch.items()}
    inputs, labels, extra, masks = trainer.post_dataloading_process(batch, tokens[:, 1:].to(trainer.device))
    with trainer.train_context():
        if trainer.parallel_dims.pp_enabled:
            targets, losses = (labels, []) if trainer.pp_has_last_stage else (None, None)
            arguments = (inputs,) if trainer.pp_has_first_stage else ()
            extra = extra if trainer.pp_has_first_stage else {}
            trainer.pp_schedule.eval(*arguments, **extra, **masks, target=targets, losses=losses)
        else:
            with trainer.maybe_enable_amp:
                trainer.channel_loss(trainer.model_parts[0](inputs, **extra, **masks), labels)
