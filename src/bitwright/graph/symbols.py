"""Shapes of a graph's values, with the batch size as a symbol."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node


def value_of(node: Node) -> Tensor | None:
    """The fake tensor that torch.export noted for a node; a quantizer's is that of its input."""
    value = node.meta.get("val")
    if value is None and node.op == "call_module" and node.args and isinstance(node.args[0], Node):
        return value_of(node.args[0])
    return value if isinstance(value, Tensor) else None


def batch_symbols(module: GraphModule) -> frozenset[Any]:
    """The symbols that stand for the batch size: the first dimensions of the inputs."""
    values = [value_of(node) for node in module.graph.nodes if node.op == "placeholder"]
    sizes: list[Any] = [value.shape[0] for value in values if value is not None and value.dim()]
    return frozenset(s for size in sizes if isinstance(size, torch.SymInt) for s in size.node.expr.free_symbols)


def shape_of_one(node: Node, shape: torch.Size, symbols: frozenset[Any]) -> tuple[int, ...]:
    """Shape of a value for a batch of one sample, wherever its batch dimension is.

    Args:
        node: whose value it is.
        shape: what it was for some batch, for dimensions that depend on other things.
        symbols: from :func:`batch_symbols`.
    """
    value = value_of(node)
    if value is None or value.dim() != len(shape):
        return (1, *shape[1:])
    return tuple(_size_of_one(size, actual, symbols) for size, actual in zip(value.shape, shape, strict=True))


def _size_of_one(size: Any, actual: int, symbols: frozenset[Any]) -> int:
    if not isinstance(size, torch.SymInt):
        return int(size)
    expression = size.node.expr.subs(dict.fromkeys(symbols, 1))
    return int(expression) if not expression.free_symbols else actual
