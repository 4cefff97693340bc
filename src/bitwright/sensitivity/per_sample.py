"""Per-sample gradients of weights, reduced from inputs and output gradients without a loop over samples.

Inputs a are (N, ..., features), output gradients g (N, ..., outputs): sample n's gradient is sum_l g_nl a_nl^T.
"""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK_BYTES = 1 << 23  # per-sample weight gradients held at once
Pair = tuple[Tensor, Tensor | None]
"""Squared norms (n,), and products with rounding errors (n, B) or None."""


def joined(parts: list[Pair]) -> Pair:
    """Pairs of chunks of samples, one after another."""
    if len(parts) == 1:
        return parts[0]
    products = [product for _, product in parts if product is not None]
    return torch.cat([square for square, _ in parts]), torch.cat(products) if products else None


def reduced(gradients: Tensor, errors: Tensor | None) -> Pair:
    """Squared norms (n,) and products (n, B) of flattened per-sample gradients (n, numel)."""
    squares = torch.linalg.vector_norm(gradients, dim=1).square_()
    return squares, gradients @ errors.t() if errors is not None else None


def sequences(tensor: Tensor) -> Tensor:
    """(N, L, features): everything between batch and features is the sequence."""
    return tensor.flatten(1, -2) if tensor.dim() > 2 else tensor.unsqueeze(1)


def linear_norms(a: Tensor, g: Tensor) -> Tensor:
    """||sum_l g_l a_l^T||^2 for each sample."""
    if a.dim() == 2:
        return a.square().sum(1) * g.square().sum(1)
    a, g = sequences(a), sequences(g)
    length, features, outputs = a.shape[1], a.shape[2], g.shape[2]
    if length * (features + outputs) < features * outputs:
        chunk = max(1, CHUNK_BYTES // (8 * length * length))
        pieces = zip(torch.split(a, chunk), torch.split(g, chunk), strict=True)
        return torch.cat(
            [(torch.bmm(x, x.transpose(1, 2)) * torch.bmm(y, y.transpose(1, 2))).sum((1, 2)) for x, y in pieces]
        )
    chunk = max(1, CHUNK_BYTES // (4 * features * outputs))
    pieces = zip(torch.split(a, chunk), torch.split(g, chunk), strict=True)
    return torch.cat([torch.bmm(y.transpose(1, 2), x).square_().sum((1, 2)) for x, y in pieces])


def linear_products(a: Tensor, g: Tensor, error: Tensor | None, weight: Tensor) -> Tensor | None:
    """<sum_l g_l a_l^T, D_b> for each sample and width: the error passes through the layer like a weight."""
    if error is None:
        return None
    columns = []
    for column in error:
        changed = torch.nn.functional.linear(a, column.reshape(weight.shape))
        columns.append((changed * g).flatten(1).sum(1))
    return torch.stack(columns, 1)


def tokens(index: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Looked-up rows (N, L) and their gradients (N, L, features), whatever is between batch and features."""
    return index.reshape(len(index), -1), g.reshape(len(index), -1, g.shape[-1])


def embedding_products(index: Tensor, g: Tensor, error: Tensor | None, weight: Tensor) -> Tensor | None:
    """The same for an embedding: the errors of the rows that were looked up."""
    if error is None:
        return None
    index, g = tokens(index, g)
    return torch.stack([(row.reshape(weight.shape)[index] * g).sum((1, 2)) for row in error], 1)


def embedding_norms(index: Tensor, g: Tensor) -> Tensor:
    """Rows met by the same token add up: sum over pairs of equal tokens of g_l . g_m."""
    index, g = tokens(index, g)
    same = index[:, :, None] == index[:, None, :]
    return (torch.bmm(g, g.transpose(1, 2)) * same).sum((1, 2))
