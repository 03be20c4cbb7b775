"""The exported model is the trained one, for transformers as for torchtitan."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp

from training.hf_export import export_hf
from training.model import SeededTransformer, model_args, parameter_count
from training.request import ModelShape

SHAPE = ModelShape(
    dim=64, n_layers=3, n_heads=4, n_kv_heads=2, vocab_size=192, sequence_length=64, rope_theta=50_000.0, multiple_of=32
)


def model(seed: int = 3) -> SeededTransformer:
    built = SeededTransformer(model_args(SHAPE))
    built.seed = seed
    built.init_weights()
    return built.eval()


def save(built: SeededTransformer, folder: Path) -> Path:
    dcp.save(dict(built.named_parameters()), checkpoint_id=str(folder), no_dist=True)
    return folder


def test_logits_of_the_export_equal_those_of_the_trained_model(tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    trained = model()
    sha256 = export_hf(save(trained, tmp_path / "dcp"), tmp_path / "hf", SHAPE, end_of_document_id=0)
    exported = LlamaForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32).eval()
    tokens = torch.randint(0, 192, (2, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        difference = (trained(tokens) - exported(tokens).logits).abs().max().item()
    assert difference < 1e-4
    assert sum(p.numel() for p in exported.parameters()) == parameter_count(SHAPE)
    assert exported.config.eos_token_id == 0
    again = export_hf(tmp_path / "dcp", tmp_path / "again", SHAPE, end_of_document_id=0)
    assert again == sha256
    assert (tmp_path / "hf/config.json").read_bytes() == (tmp_path / "again/config.json").read_bytes()


def test_initial_weights_follow_the_seed_and_torchtitans_scale() -> None:
    one, same, other = model(3), model(3), model(4)
    weights, equal, different = (dict(m.named_parameters()) for m in (one, same, other))
    assert all(torch.equal(weights[name], equal[name]) for name in weights)
    assert not torch.equal(weights["output.weight"], different["output.weight"])
    assert 0.95 < weights["tok_embeddings.weight"].std().item() < 1.05
    assert 0.018 < weights["layers.0.attention.wq.weight"].std().item() < 0.022
    assert weights["layers.2.attention.wo.weight"].std() < weights["layers.0.attention.wo.weight"].std()
