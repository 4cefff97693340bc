"""Operations that hide products are opened up into the products that the table of operations knows.

Attention becomes matmul, softmax, matmul; an einsum becomes permutations and a batched matmul; a sum of a matrix and a
product (``addmm``, as in Hugging Face's ``Conv1D``) becomes a linear layer; a bilinear layer a linear layer on outer
products. Cells of recurrent layers, and LSTMs with projections, become linear layers that share one weight, as
PyTorch's own decompositions unroll them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor
from torch._decomp import get_decompositions
from torch.export import ExportedProgram
from torch.fx import Node

from bitwright.graph.operations import OPERATIONS, aten, entry_of
from bitwright.graph.recurrent import opened_stacks


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


def addmm(added: Tensor, left: Tensor, right: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta added + alpha left right: a linear layer where a vector is added to each row."""
    if added.dim() == 1 and added.shape[0] == right.shape[1]:
        weight = right.t() if alpha == 1 else right.t() * alpha
        return functional.linear(left, weight, added if beta == 1 else added * beta)
    return _sum(added, torch.matmul(left, right), beta, alpha)


def baddbmm(added: Tensor, left: Tensor, right: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta added + alpha left right, for a batch of matrices."""
    return _sum(added, torch.bmm(left, right), beta, alpha)


def addbmm(added: Tensor, left: Tensor, right: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta added + alpha times the sum of left right over the batch."""
    return _sum(added, torch.bmm(left, right).sum(0), beta, alpha)


def mv(matrix: Tensor, vector: Tensor) -> Tensor:
    """Matrix times vector."""
    return torch.matmul(matrix, vector)


def addmv(added: Tensor, matrix: Tensor, vector: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta added + alpha matrix vector."""
    return _sum(added, torch.matmul(matrix, vector), beta, alpha)


def _sum(added: Tensor, product: Tensor, beta: float, alpha: float) -> Tensor:
    product = product if alpha == 1 else product * alpha
    if beta == 0:  # what is added may then hold anything, NaN too
        return product
    return (added if beta == 1 else added * beta) + product


def linear(source: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    """A linear layer of one output, whose weight is a vector, as one of a matrix; others are left alone."""
    if weight.dim() > 1:
        return NotImplemented
    return functional.linear(source, weight.unsqueeze(0), None if bias is None else bias.reshape(1)).squeeze(-1)


def bilinear(left: Tensor, right: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """left^T W_o right for each output o: a linear layer on the outer products of its two inputs."""
    outer = (left.unsqueeze(-1) * right.unsqueeze(-2)).flatten(-2)
    return functional.linear(outer, weight.flatten(1), bias)


def convolution(
    source: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
) -> Tensor:
    """The convolution of as many dimensions as the weight has."""
    name = f"{'conv_transpose' if transposed else 'conv'}{weight.dim() - 2}d"
    between: tuple[Any, ...] = (output_padding, groups, dilation) if transposed else (dilation, groups)
    result: Tensor = getattr(functional, name)(source, weight, bias, stride, padding, *between)
    return result


_OWN: dict[Any, Callable[..., Tensor]] = {
    aten.scaled_dot_product_attention.default: attention,
    aten.addmm.default: addmm,
    aten.baddbmm.default: baddbmm,
    aten.addbmm.default: addbmm,
    aten.mv.default: mv,
    aten.addmv.default: addmv,
    aten.bilinear.default: bilinear,
    aten.convolution.default: convolution,
}


def decompose(program: ExportedProgram) -> ExportedProgram:
    """Open up what hides products; a program without it is returned as it is."""
    stacks, vectors = opened_stacks(program), any(_by_vector(node) for node in program.graph.nodes)
    if not stacks and not vectors and not any(entry_of(node).opened for node in program.graph.nodes):
        return program
    # One can open into another.
    hiding: list[Any] = [*(target for target, entry in OPERATIONS.items() if entry.opened), *stacks]
    known: dict[Any, Any] = {**get_decompositions(hiding), **_OWN}
    general = torch.export.default_decompositions()
    table = {target: known.get(target) or general[target] for target in hiding}
    if vectors:
        table[aten.linear.default] = linear
    opened: ExportedProgram = program.run_decompositions(table)
    return opened


def _by_vector(node: Node) -> bool:
    weight = node.args[1] if node.target is aten.linear.default else None
    return isinstance(weight, Node) and weight.meta["val"].dim() == 1
