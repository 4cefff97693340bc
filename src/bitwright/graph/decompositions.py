"""Operations that hide matrix products are opened up, so that the products get sites.

Attention becomes matmul, softmax, matmul; an einsum becomes permutations and a batched matmul. Recurrent layers (LSTM,
GRU) become linear layers that share one weight, as PyTorch's own decompositions unroll them.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch._decomp import get_decompositions
from torch.export import ExportedProgram

from bitwright.graph.operations import aten, entry_of


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Scaled dot-product attention written out: softmax(q k^T scale + mask) v."""
    factor = 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale
    if enable_gqa:
        repeats = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(repeats, -3), value.repeat_interleave(repeats, -3)
    scores = torch.matmul(query * factor, key.transpose(-2, -1))
    if is_causal:
        keep = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
        scores = scores.masked_fill(~keep, torch.finfo(scores.dtype).min)
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, torch.finfo(scores.dtype).min)
        else:
            scores = scores + attn_mask
    return torch.matmul(torch.softmax(scores, -1), value)


def decompose(program: ExportedProgram) -> ExportedProgram:
    """Open up attention, einsums and recurrent layers; a program without them is returned as it is."""
    wanted: list[Any] = [node.target for node in program.graph.nodes if entry_of(node).opened]
    if not wanted:
        return program
    known: dict[Any, Any] = {aten.scaled_dot_product_attention.default: attention, **get_decompositions(wanted)}
    general = torch.export.default_decompositions()
    table = {target: known.get(target) or general[target] for target in wanted}
    opened: ExportedProgram = program.run_decompositions(table)
    return opened
