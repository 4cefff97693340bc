"""Operations that hide matrix products are opened up, so that the products get sites.

Attention becomes matmul, softmax, matmul; an einsum becomes permutations and a batched matmul. Recurrent layers (LSTM,
GRU) become linear layers that share one weight, as PyTorch's own decompositions unroll them.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

aten = torch.ops.aten
_RECURRENT = (aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input)


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
    targets = {node.target for node in program.graph.nodes if node.op == "call_function"}
    table: dict[Any, Any] = {}
    if aten.scaled_dot_product_attention.default in targets:
        table[aten.scaled_dot_product_attention.default] = attention
    if aten.einsum.default in targets:
        table[aten.einsum.default] = torch.export.default_decompositions()[aten.einsum.default]
    recurrent = [op for op in _RECURRENT if op in targets]
    if recurrent:
        from torch._decomp import get_decompositions

        table.update(get_decompositions(recurrent))
    return program.run_decompositions(table) if table else program
