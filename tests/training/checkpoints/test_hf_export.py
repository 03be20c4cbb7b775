"""The exported model is the trained one, for transformers as for torchtitan."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file, save_file

from training.checkpoints.hf_export import export_hf
from training.checkpoints.hf_import import check_start, load_start, weights_digest
from training.contract.errors import HfImportError
from training.contract.request import HfStart, ModelShape
from training.model.llama import SeededTransformer, model_args, parameter_count

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


@pytest.mark.parametrize(
    "changes",
    [
        {"n_kv_heads": 4},
        {"n_kv_heads": 1},
        {"rope_theta": 500_000.0, "sequence_length": 2048},
        {"ffn_dim_multiplier": 1.3, "multiple_of": 64},
        {"norm_eps": 1e-6, "vocab_size": 256},
    ],
    ids=str,
)
def test_every_kind_of_model_that_a_recipe_may_ask_for_is_exported_as_it_is(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    """All heads of their own, one key for all, a long context to its end, other widths."""
    from transformers import AutoModelForCausalLM

    shape = SHAPE.model_copy(update=changes)
    trained = SeededTransformer(model_args(shape))
    trained.init_weights()
    export_hf(save(trained.eval(), tmp_path / "dcp"), tmp_path / "hf", shape, end_of_document_id=0)
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    tokens = torch.randint(0, shape.vocab_size, (1, shape.sequence_length), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert (trained(tokens) - exported(tokens).logits).abs().max().item() < 1e-4
    assert exported.config.max_position_embeddings == shape.sequence_length
    assert not exported.config.tie_word_embeddings


def imported(folder: Path, shape: ModelShape = SHAPE) -> SeededTransformer:
    built = model(seed=99)
    load_start(HfStart(folder=folder, weights_sha256=weights_digest(folder)), shape, [built])
    return built


def test_logits_of_an_imported_llama_equal_those_in_transformers(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(5)
    export_hf(save(model(), tmp_path / "dcp"), tmp_path / "ours", SHAPE, end_of_document_id=0)
    config = LlamaConfig.from_pretrained(tmp_path / "ours")
    theirs = LlamaForCausalLM(config).eval()
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="100KB")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 1
    tokens = torch.randint(0, 192, (2, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        difference = (imported(tmp_path / "theirs")(tokens) - theirs(tokens).logits).abs().max().item()
    assert difference < 1e-4


def test_what_is_exported_and_imported_again_is_the_same_bit_for_bit(tmp_path: Path) -> None:
    trained = model()
    export_hf(save(trained, tmp_path / "dcp"), tmp_path / "hf", SHAPE, end_of_document_id=0)
    again = dict(imported(tmp_path / "hf").named_parameters())
    assert all(torch.equal(again[name], parameter) for name, parameter in trained.named_parameters())


@pytest.mark.parametrize(
    ("config", "rule"),
    [
        ({"hidden_size": 128}, "hidden_size is 128, but the request needs 64"),
        ({"vocab_size": 200, "num_hidden_layers": 4}, "num_hidden_layers is 4, .* 3; vocab_size is 200, .* 192"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 50_000.0}}, "rope_type is 'llama3'"),
        ({"max_position_embeddings": 32}, "max_position_embeddings is 32, shorter than sequence_length 64"),
        ({"model_type": "qwen2"}, "model_type is 'qwen2'"),
    ],
)
def test_a_model_of_another_shape_is_explained(tmp_path: Path, config: dict[str, Any], rule: str) -> None:
    export_hf(save(model(), tmp_path / "dcp"), tmp_path / "hf", SHAPE, end_of_document_id=0)
    path = tmp_path / "hf/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    with pytest.raises(HfImportError, match=rule):
        imported(tmp_path / "hf")


def test_weights_that_are_damaged_missing_or_others_are_refused(tmp_path: Path) -> None:
    export_hf(save(model(), tmp_path / "dcp"), tmp_path / "hf", SHAPE, end_of_document_id=0)
    path = tmp_path / "hf/model.safetensors"
    tensors = load_file(path)
    with pytest.raises(HfImportError, match=f"but the request pins {'0' * 64}"):
        check_start(HfStart(folder=tmp_path / "hf", weights_sha256="0" * 64), SHAPE)
    save_file({name: tensor for name, tensor in tensors.items() if name != "model.norm.weight"}, path)
    with pytest.raises(HfImportError, match=r"lacks the weights of norm.weight \(1 in all\)"):
        imported(tmp_path / "hf")
    save_file(tensors | {"model.extra.weight": torch.zeros(2)}, path)
    with pytest.raises(HfImportError, match=r"model\.extra\.weight is no weight of a Llama"):
        imported(tmp_path / "hf")
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(HfImportError, match="is not a whole safetensors file"):
        imported(tmp_path / "hf")


def test_initial_weights_follow_the_seed_and_torchtitans_scale() -> None:
    one, same, other = model(3), model(3), model(4)
    weights, equal, different = (dict(m.named_parameters()) for m in (one, same, other))
    assert all(torch.equal(weights[name], equal[name]) for name in weights)
    assert not torch.equal(weights["output.weight"], different["output.weight"])
    assert 0.95 < weights["tok_embeddings.weight"].std().item() < 1.05
    assert 0.018 < weights["layers.0.attention.wq.weight"].std().item() < 0.022
    assert weights["layers.2.attention.wo.weight"].std() < weights["layers.0.attention.wo.weight"].std()
