"""A real run that begins with a Hugging Face Llama."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from assets.build import BuildError
from tests.training.data.test_order_dataset import expected_sequence
from tests.training.running import exact, train
from tests.training.tiny import tiny_request
from training.checkpoints.hf_import import weights_digest


@pytest.mark.slow
def test_the_first_loss_is_that_of_the_imported_model(undisturbed: Path, data: Path, tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    folder = undisturbed / "checkpoints/step-00000006/hf"
    start = {"folder": str(folder), "weights_sha256": weights_digest(folder)}
    train(tmp_path, tiny_request(data, tmp_path / "out", start_from_hf=start, parallelism={"dp_shard": 2}))
    tokens = torch.tensor([expected_sequence(data, number) for number in range(4)])
    with torch.no_grad():
        logits = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)(tokens[:, :-1]).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).item()
    assert exact(tmp_path / "out")[0]["loss"] == pytest.approx(loss, abs=1e-4)
    assert exact(undisturbed)[0]["loss"] > loss + 0.1  # not the random start


@pytest.mark.slow
def test_other_weights_than_the_pinned_ones_stop_the_run(undisturbed: Path, data: Path, tmp_path: Path) -> None:
    start = {"folder": str(undisturbed / "checkpoints/step-00000006/hf"), "weights_sha256": "0" * 64}
    with pytest.raises(BuildError, match=r"HfImportError: the weights in .* but the request pins 0000"):
        train(tmp_path, tiny_request(data, tmp_path / "out", start_from_hf=start))
