"""The loss of each document piece of chosen sequences under the weights of now, on any layout.

Forward passes only, through the same model, schedule and loss as training: the pieces take the place of the channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import torch
from torch.distributed.fsdp import FSDPModule
from torchtitan.distributed import ParallelDims

from training.contract.request import TrainRequest
from training.data.amended_order import AmendedReader, Amending, OrderDocuments
from training.data.order_dataset import OrderReader
from training.watching.monitor import ChannelLoss
from training.watching.reduction import batch_rank, summed_over_tokens


class PieceScorer:
    """Scores with the model of a run where it lies: `forward` takes a local batch (tokens, pieces) and leaves its sums
    in the loss."""

    def __init__(
        self,
        request: TrainRequest,
        forward: Callable[[torch.Tensor, torch.Tensor], None],
        loss: ChannelLoss,
        model_parts: Sequence[torch.nn.Module],
        parallel_dims: ParallelDims,
    ) -> None:
        self._request = request
        self._forward = forward
        self._loss = loss
        self._model_parts = model_parts
        self._parallel_dims = parallel_dims

    def score(self, numbers: np.ndarray, open_reader: Callable[[], OrderReader], amending: Amending) -> pa.Table:
        """sequence, piece, doc_id, channel, tokens, loss of ascending sequences: equal on all ranks, which must all call it.

        `tokens` counts predicted tokens: the first of a sequence is predicted by nothing.
        """
        documents = OrderDocuments(open_reader(), amending).pieces(numbers)
        columns = int(documents["piece"].to_numpy().max()) + 1
        sums = self._sums(numbers, AmendedReader(open_reader, amending), columns)
        rows = np.searchsorted(numbers, documents["sequence"].to_numpy())
        losses, tokens = sums[:, rows, documents["piece"].to_numpy()].numpy()
        documents = documents.append_column("tokens", pa.array(tokens.astype(np.int64)))
        documents = documents.append_column("loss", pa.array(losses / np.maximum(tokens, 1)))
        return documents.drop_columns(["length"])

    def _sums(self, numbers: np.ndarray, reader: AmendedReader, columns: int) -> torch.Tensor:
        """[2, sequences, pieces]: first the losses, then the tokens."""
        batch = self._request.local_batch_size
        together = batch * self._request.layout.dp
        padded = np.concatenate([numbers, np.full(-len(numbers) % together, numbers[-1])])
        sums = torch.zeros(2, len(padded), columns, dtype=torch.float64)
        of_training = self._loss.columns
        self._loss.columns, self._loss.divisor = columns, 1.0
        for begin in range(batch_rank(self._parallel_dims) * batch, len(padded), together):
            mine = slice(begin, begin + batch)
            distinct, rows = np.unique(padded[mine], return_inverse=True)
            block = reader.read(distinct)
            self._forward(torch.from_numpy(block.tokens[rows]), torch.from_numpy(block.pieces[rows]))
            sums[:, mine] = self._loss.take()
        self._loss.columns = of_training
        for part in self._model_parts:
            for module in part.modules():
                if isinstance(module, FSDPModule):
                    module.reshard()  # a backward pass would have: a checkpoint finds no whole parameters
        return summed_over_tokens(sums, self._parallel_dims)
