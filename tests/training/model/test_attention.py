"""A document's loss in a packed sequence is its loss alone when documents are masked, and only then."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.nn.functional as F

from tests.training import tiny
from tests.training.test_runs import exact, train
from training.contract.request import TrainRequest
from training.data.order_dataset import OrderIdentity, OrderLoader, OrderReader

if TYPE_CHECKING:
    from training.model.llama import SeededTransformer


@pytest.fixture
def request_(data: Path) -> TrainRequest:
    return TrainRequest.model_validate(tiny.tiny_request(data, data))


def model_of(request: TrainRequest, *, masked: bool) -> SeededTransformer:
    from training.model.llama import SeededTransformer, model_args

    model = SeededTransformer(model_args(request.model, masked))
    model.seed = request.seed
    model.init_weights()
    with torch.no_grad():
        for block in model.layers.values():
            block.attention.wq.weight *= 20  # so that an untrained model attends to something
    return model


def batch_of(request: TrainRequest, sequences: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    with tempfile.TemporaryDirectory() as lookup:
        reader = OrderReader(request.data, tiny.SEQUENCE_LENGTH, tiny.VOCABULARY, Path(lookup))
        return next(
            iter(OrderLoader(reader, OrderIdentity("order-1", "order-1", 40), sequences, 0, 1, with_documents=True))
        )


def losses(model: SeededTransformer, tokens: torch.Tensor, targets: torch.Tensor, **masks: Any) -> torch.Tensor:
    predicted = model(tokens, **masks)
    return F.cross_entropy(predicted.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)


def differences(request: TrainRequest, *, masked: bool) -> list[float]:
    """For each document of 8 sequences but the first of each: largest distance of a token's loss from its loss alone."""
    batch, targets = batch_of(request, 8)
    packed, alone = model_of(request, masked=masked), model_of(request, masked=False)
    masks = {"attention_masks": packed.get_attention_masks(batch["input"], None, batch)} if masked else {}
    together = losses(packed, batch["input"], targets, **masks)
    documents = batch.get("documents")
    if documents is None:  # taken by the mask
        documents = batch_of(request, 8)[0]["documents"]
    found = []
    for row, of_row in enumerate(documents):
        for number in range(1, int(of_row.max()) + 1):
            places = (of_row == number).nonzero().flatten()
            if len(places) < 3:
                continue
            by_itself = losses(alone, batch["input"][row : row + 1, places], targets[row : row + 1, places])
            found.append((by_itself - together[row, places]).abs().max().item())
    return found


def test_a_masked_document_has_the_loss_that_it_has_alone(request_: TrainRequest) -> None:
    found = differences(request_, masked=True)
    assert len(found) >= 5
    assert max(found) < 1e-5


def test_without_the_mask_what_stands_before_a_document_changes_its_loss(request_: TrainRequest) -> None:
    found = differences(request_, masked=False)
    assert len(found) >= 5
    assert min(found) > 1e-3


def test_gradients_stay_inside_the_document(request_: TrainRequest) -> None:
    batch, targets = batch_of(request_, 8)
    documents = batch["documents"]
    model = model_of(request_, masked=True)
    seen: list[torch.Tensor] = []
    model.tok_embeddings.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    masks = model.get_attention_masks(batch["input"], None, batch)
    of_token = losses(model, batch["input"], targets, attention_masks=masks)
    row = int((documents == 1).sum(dim=1).argmax())
    second = documents == 1
    second[:row] = second[row + 1 :] = False
    (gradient,) = torch.autograd.grad(of_token[second].sum(), seen[0])
    assert gradient[second].abs().max() > 0
    assert not gradient[~second].any()


def test_pipeline_stages_of_a_run_see_the_masks_of_their_micro_batches(data: Path, tmp_path: Path) -> None:
    from training.model.llama import SeededTransformer, model_args

    content = tiny.tiny_request(data, tmp_path / "out", mask_documents=True, parallelism={"pp": 2})
    train(tmp_path, content)
    request = TrainRequest.model_validate(content)
    batch, targets = batch_of(request, 4)
    first: dict[bool, float] = {}
    for masked in (True, False):
        model = SeededTransformer(model_args(request.model, masked))
        model.seed = request.seed
        model.init_weights()
        masks = {"attention_masks": model.get_attention_masks(batch["input"], None, dict(batch))} if masked else {}
        first[masked] = losses(model, batch["input"], targets, **masks).mean().item()
    lines = exact(tmp_path / "out")
    assert lines[0]["loss"] == pytest.approx(first[True], abs=1e-5)
    assert abs(first[True] - first[False]) > 3e-5
    assert lines[-1]["loss"] < lines[0]["loss"] < 2 * math.log(tiny.VOCABULARY)
