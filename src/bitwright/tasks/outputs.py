"""Outputs of a network, whatever their structure, checked; and per-sample means of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from bitwright.errors import InvalidData, InvalidInput
from bitwright.graph.outputs import flatten

Named = dict[str, Tensor]


def checked(outputs: Any, count: int) -> Named:
    """The outputs by name, after checking that all of them have the samples first and are finite.

    Raises:
        InvalidInput: no tensor at all, or one that has other than ``count`` entries along its first axis.
        InvalidData: NaN or infinite values.
    """
    named = flatten(outputs)
    if not named:
        raise InvalidInput("the network returns no tensor, so there is nothing to compare; wrap the model")
    for name, value in named.items():
        if value.dim() == 0 or len(value) != count:
            raise InvalidInput(
                f"every output needs the samples along its first axis, {count} here, got shape {tuple(value.shape)} "
                f"for '{name}'; wrap the model so that it leaves this one out"
            )
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise InvalidData("the model's outputs hold NaN or infinite values; check weights and inputs")
    return named


def per_sample(values: Tensor, counted: Tensor | None = None) -> Tensor:
    """(N,) means over everything but the first axis, float64; over the positions that count, where not all do."""
    values = values.double()
    if values.dim() == 1:
        return values
    if counted is None:
        return values.flatten(1).mean(1)
    weights = counted.double().flatten(1)
    return (values.flatten(1) * weights).sum(1) / weights.sum(1)


def same_targets(one: Any, other: Any) -> bool:
    """Whether two batches have equal targets."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one.cpu(), other.cpu())
    if one is None or other is None:
        return one is other
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same_targets(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(same_targets, one, other))
    return bool(one == other)


def on_cpu(value: Any) -> Any:
    """A structure of tensors, moved to the CPU."""
    return torch.utils._pytree.tree_map(lambda v: v.cpu() if isinstance(v, Tensor) else v, value)


def like(structure: Any, values: list[Tensor]) -> Any:
    """The values in the place of the tensors of a structure, in their order."""
    leaves, spec = tree_flatten(structure)
    left = iter(values)
    return tree_unflatten([next(left) if isinstance(leaf, Tensor) else leaf for leaf in leaves], spec)
