"""torchtitan's Llama with initial weights that depend on the seed and the parameter's name alone.

torchtitan draws initial weights from each rank's generator, so one process and FSDP on two ranks
start from different models, and a run could not be compared across layouts.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.nn.attention.flex_attention import BlockMask
from torchtitan.models.llama3.model.args import RoPEScalingArgs, TransformerModelArgs
from torchtitan.models.llama3.model.model import Transformer

from training.contract.request import ModelShape
from training.model.attention import DenseMaskAttention, document_mask


def model_args(shape: ModelShape, mask_documents: bool = False) -> TransformerModelArgs:
    """A fresh copy of torchtitan's arguments: torchtitan changes the ones it is given."""
    return TransformerModelArgs(
        dim=shape.dim,
        n_layers=shape.n_layers,
        n_heads=shape.n_heads,
        n_kv_heads=shape.n_kv_heads,
        vocab_size=shape.vocab_size,
        multiple_of=shape.multiple_of,
        ffn_dim_multiplier=shape.ffn_dim_multiplier,
        norm_eps=shape.norm_eps,
        rope_theta=shape.rope_theta,
        # torchtitan always applies Llama 3.1's long-context scaling; a factor of 1 leaves the frequencies alone.
        rope_scaling_args=RoPEScalingArgs(scaling_factor=1.0),
        max_seq_len=shape.sequence_length,
        attn_type="flex" if mask_documents else "sdpa",
    )


class SeededTransformer(Transformer):
    """A Transformer whose `init_weights` gives the same model on every layout, and whose masks are planned."""

    seed: int = 0

    def __init__(self, model_args: TransformerModelArgs) -> None:
        super().__init__(model_args)
        if model_args.attn_type == "flex" and not torch.cuda.is_available():
            for block in self.layers.values():
                block.attention.inner_attention = DenseMaskAttention()  # type: ignore[union-attr]

    def get_attention_masks(
        self, input_batch: torch.Tensor, tokenizer: Any, extra_inputs: dict[str, torch.Tensor] | None = None
    ) -> BlockMask:
        """Called by torchtitan when documents are masked. Takes them out of the inputs: the model reads the mask."""
        assert extra_inputs is not None, "the loader gives the documents"
        return document_mask(extra_inputs.pop("documents"))

    def init_weights(self, buffer_device: torch.device | None = None) -> None:
        """Same distributions as torchtitan: N(0, 1) embeddings, 0.02 projections, depth-scaled residual outputs."""
        with torch.device(buffer_device or self.freqs_cis.device):
            self.freqs_cis = self._precompute_freqs_cis()
        for wrapped_name, parameter in list(self.named_parameters()):
            name = plain_name(wrapped_name)
            full = initial_weight(name, parameter.shape, self.model_args, self.seed)
            # One parameter at a time: a whole copy of a large model on each rank would not fit.
            options = StateDictOptions(full_state_dict=True, strict=False)
            set_model_state_dict(self, {name: full.to(parameter.dtype)}, options=options)


def plain_name(name: str) -> str:
    """A parameter's name without the wrappers of activation checkpointing and torch.compile."""
    return ".".join(part for part in name.split(".") if part not in ("_checkpoint_wrapped_module", "_orig_mod"))


def seed_of(seed: int, what: str | int) -> int:
    """The seed of one of the things that a run draws numbers for: below 2**63, and no other thing's."""
    digest = hashlib.sha256(f"{seed}\0{what}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def initial_weight(name: str, shape: torch.Size, args: TransformerModelArgs, seed: int) -> torch.Tensor:
    """The initial value of one parameter, as a function of the seed and its name."""
    if len(shape) == 1:
        return torch.ones(shape)  # RMSNorm
    generator = torch.Generator().manual_seed(seed_of(seed, name))
    weight = torch.empty(shape)
    if name == "tok_embeddings.weight":
        return torch.nn.init.normal_(weight, generator=generator)
    if name == "output.weight":
        std = args.dim**-0.5
        return torch.nn.init.trunc_normal_(weight, std=std, a=-3 * std, b=3 * std, generator=generator)
    layer = int(name.split(".")[1])
    last = name.rsplit(".", 2)[-2]
    std = 0.02 / (2 * (layer + 1)) ** 0.5 if last in ("wo", "w2", "w3") else 0.02
    return torch.nn.init.trunc_normal_(weight, std=std, generator=generator)


def parameter_count(shape: ModelShape) -> int:
    """Parameters of the model, counted on the real modules without allocating them."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Transformer(model_args(shape)).parameters())
