"""A Hugging Face Llama as the start of a run: its weights, at step 0, in place of random ones.

Read tensor by tensor, so that a rank never holds more than its own part and one whole tensor.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torchtitan.models.llama3.model.model import Transformer
from torchtitan.models.llama3.model.state_dict_adapter import Llama3StateDictAdapter

from training.contract.errors import HfImportError
from training.contract.request import HfStart, ModelShape
from training.model.llama import model_args


def weights_digest(folder: Path) -> str:
    """SHA-256 over the names and SHA-256 of the folder's *.safetensors: what a request pins."""
    lines = []
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            lines.append(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n")
    if not lines:
        raise HfImportError(f"{folder} holds no *.safetensors: save the model with safe_serialization=True")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def check_start(start: HfStart, shape: ModelShape) -> None:
    """Raises HfImportError when the files are not those that the request pins, or naming each way in which the models differ."""
    digest = weights_digest(start.folder)
    if digest != start.weights_sha256:
        raise HfImportError(
            f"the weights in {start.folder} have the digest {digest}, but the request pins {start.weights_sha256}: the files "
            "were changed or damaged, or it is another model"
        )
    path = start.folder / "config.json"
    try:
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise HfImportError(f"{path} cannot be read: {error}") from None
    wrong = [
        f"{name} is {found!r}, but the request needs {wanted!r}"
        for name, found, wanted in _compared(config, shape)
        if found != wanted
    ]
    if config.get("max_position_embeddings", 0) < shape.sequence_length:
        wrong.append(
            f"max_position_embeddings is {config.get('max_position_embeddings')}, shorter than sequence_length {shape.sequence_length}"
        )
    if wrong:
        raise HfImportError(
            f"{path} is not the requested model: {'; '.join(wrong)}. Make config/models say what the model is"
        )


def _compared(config: dict[str, Any], shape: ModelShape) -> Iterator[tuple[str, Any, Any]]:
    """(key, what config.json says, what the request says)."""
    with torch.device("meta"):
        width = Transformer(model_args(shape)).layers["0"].feed_forward.w1.weight.shape[0]  # type: ignore[index, union-attr]
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    yield "model_type", config.get("model_type"), "llama"
    yield "hidden_size", config.get("hidden_size"), shape.dim
    yield "num_hidden_layers", config.get("num_hidden_layers"), shape.n_layers
    yield "num_attention_heads", config.get("num_attention_heads"), shape.n_heads
    yield "num_key_value_heads", config.get("num_key_value_heads", config.get("num_attention_heads")), shape.n_kv_heads
    yield "head_dim", config.get("head_dim") or shape.dim // shape.n_heads, shape.dim // shape.n_heads
    yield "intermediate_size", config.get("intermediate_size"), width
    yield "vocab_size", config.get("vocab_size"), shape.vocab_size
    yield "rms_norm_eps", config.get("rms_norm_eps", 1e-6), shape.norm_eps
    yield "rope_theta", float(rope.get("rope_theta", config.get("rope_theta", 10_000.0))), float(shape.rope_theta)
    yield "rope_type", rope.get("rope_type", rope.get("type", "default")), "default"
    yield "attention_bias", config.get("attention_bias", False), False
    yield "mlp_bias", config.get("mlp_bias", False), False


def read_weights(folder: Path, shape: ModelShape) -> Iterator[tuple[str, torch.Tensor]]:
    """(torchtitan's name, the whole tensor in float32). Raises HfImportError when a tensor is missing or unknown.

    Tied embeddings become two tensors that start equal: torchtitan's Llama has no tied ones.
    """
    adapter = Llama3StateDictAdapter(model_args(shape), hf_assets_path=None)
    with torch.device("meta"):
        wanted = {name: parameter.shape for name, parameter in Transformer(model_args(shape)).named_parameters()}
    tied = json.loads((folder / "config.json").read_text("utf-8")).get("tie_word_embeddings", False)
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                for name in sorted(file.keys()):
                    for ours, tensor in _renamed(adapter, name, file.get_tensor(name), tied, path):
                        if wanted.pop(ours, None) != tensor.shape:
                            raise HfImportError(f"{path}: {name} has the shape {tuple(tensor.shape)} or is there twice")
                        yield ours, tensor.float()
        except SafetensorError as error:
            raise HfImportError(f"{path} is not a whole safetensors file: {error}") from None
    if wanted:
        raise HfImportError(f"{folder} lacks the weights of {', '.join(sorted(wanted)[:5])} ({len(wanted)} in all)")


def _renamed(
    adapter: Llama3StateDictAdapter, name: str, tensor: torch.Tensor, tied: bool, path: Path
) -> list[tuple[str, torch.Tensor]]:
    try:
        renamed = list(adapter.from_hf({name: tensor}).items())
    except (KeyError, RuntimeError) as error:
        raise HfImportError(f"{path}: {name} is no weight of a Llama of the requested shape ({error})") from None
    if tied and name == "model.embed_tokens.weight":
        renamed.append(("output.weight", tensor))
    return renamed


def load_start(start: HfStart, shape: ModelShape, model_parts: list[torch.nn.Module]) -> None:
    """Put the weights into a model that is built and laid out already. Raises HfImportError."""
    check_start(start, shape)
    options = StateDictOptions(full_state_dict=True, strict=False)
    for name, tensor in read_weights(start.folder, shape):
        for part in model_parts:  # of a pipeline: only some names are this rank's
            set_model_state_dict(part, {name: tensor}, options=options)
