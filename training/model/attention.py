"""Attention that stays inside the document, in sequences that several documents are packed into.

The order says where one piece ends and the next begins, so the mask is made from the pieces and not,
as torchtitan would, from the end-of-document tokens of the input: a piece cut out of the middle of a
document has none, and text may hold one.

Positions go on over the whole sequence. Rotary embeddings turn query and key by their positions, so
that a score depends on the distance alone: inside a document it is what it would be from position 0.

The last token of a document still predicts the first of the next, without having seen it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, create_mask
from torchtitan.models.attention import create_attention_mask


def document_mask(documents: torch.Tensor) -> BlockMask:
    """Causal mask within each document. `documents`: [batch, length], equal numbers mean the same document."""

    def same_document(b: torch.Tensor, h: torch.Tensor, q_idx: torch.Tensor, kv_idx: torch.Tensor) -> torch.Tensor:
        return (q_idx >= kv_idx) & (documents[b, q_idx] == documents[b, kv_idx])

    batch, length = documents.shape
    # Compiled, it never holds the whole length x length mask; the compiler wants a C++ toolchain on a CPU.
    make = create_attention_mask if documents.is_cuda else create_block_mask
    return make(same_document, batch, None, length, length, device=documents.device.type)


class DenseMaskAttention(torch.nn.Module):
    """What flex attention computes, where it has no backward pass: on a CPU (torch 2.13).

    It spells the mask out, length x length for each sequence: for the small models that a CPU trains.
    """

    def forward(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        *,
        block_mask: BlockMask,
        enable_gqa: bool = False,
        **_: Any,
    ) -> torch.Tensor:
        """q, k, v: [batch, heads, length, head_dim]."""
        mask = create_mask(block_mask.mask_mod, q.shape[0], 1, q.shape[2], k.shape[2], device=q.device.type)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=enable_gqa)
