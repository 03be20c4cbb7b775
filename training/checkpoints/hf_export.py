"""A checkpoint as a Hugging Face model: `config.json` and `model.safetensors`, the same bytes every time.

The weights are read back from the distributed checkpoint on disk, whatever layout wrote it: so the
export also proves that the checkpoint can be read.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torchtitan.models.llama3.model.model import Transformer
from torchtitan.models.llama3.model.state_dict_adapter import Llama3StateDictAdapter

from training.contract.request import ModelShape
from training.model.llama import model_args


def load_weights(dcp_folder: Path, shape: ModelShape) -> dict[str, torch.Tensor]:
    """The whole model's weights from a distributed checkpoint, in this process alone."""
    with torch.device("meta"):
        parameters = dict(Transformer(model_args(shape)).named_parameters())
    weights: dict[str, Any] = {name: torch.empty(p.shape, dtype=torch.float32) for name, p in parameters.items()}
    dcp.load(weights, checkpoint_id=str(dcp_folder), no_dist=True)  # type: ignore[attr-defined]
    return weights


def hf_config(shape: ModelShape, intermediate_size: int, end_of_document_id: int | None) -> dict[str, Any]:
    """`config.json` of LlamaForCausalLM."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": None,
        "eos_token_id": end_of_document_id,
        "head_dim": shape.dim // shape.n_heads,
        "hidden_act": "silu",
        "hidden_size": shape.dim,
        "initializer_range": 0.02,
        "intermediate_size": intermediate_size,
        "max_position_embeddings": shape.sequence_length,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": shape.n_heads,
        "num_hidden_layers": shape.n_layers,
        "num_key_value_heads": shape.n_kv_heads,
        "rms_norm_eps": shape.norm_eps,
        "rope_parameters": {"rope_theta": shape.rope_theta, "rope_type": "default"},  # transformers 5
        "rope_theta": shape.rope_theta,  # transformers 4
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "use_cache": True,
        "vocab_size": shape.vocab_size,
    }


def export_hf(dcp_folder: Path, folder: Path, shape: ModelShape, end_of_document_id: int | None) -> str:
    """Write the model into `folder`; returns the SHA-256 of model.safetensors.

    torchtitan's adapter renames the weights and reorders the rows of the query and key projections:
    it rotates adjacent pairs, transformers rotates halves.
    """
    weights = load_weights(dcp_folder, shape)
    intermediate_size = weights["layers.0.feed_forward.w1.weight"].shape[0]
    renamed = Llama3StateDictAdapter(model_args(shape), hf_assets_path=None).to_hf(weights)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in renamed.items()}, path, metadata={"format": "pt"})
    config = hf_config(shape, intermediate_size, end_of_document_id)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
    path.chmod(0o644)  # safetensors makes it readable by its owner only
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()
