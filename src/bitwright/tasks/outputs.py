"""Outputs of a network, whatever their structure: tensors by name, checked; and per-sample means of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from bitwright.errors import InvalidData, InvalidInput

Named = dict[str, Tensor]


def flatten(outputs: Any) -> Named:
    """Every tensor of an output by its name, in order.

    One tensor is called ``"output"``. Those of tuples and lists are called by their position, those of dictionaries
    and dataclasses by their key, one in another with a dot between: ``"heads.0"``. What is None is left out.

    Raises:
        InvalidInput: something that is neither a tensor nor a structure of tensors.
    """
    return dict(_walk(outputs, ""))


def _walk(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name or "output", value
    elif value is not None:
        for key, part in _parts(value, name):
            yield from _walk(part, f"{name}.{key}" if name else str(key))


def _parts(value: Any, name: str) -> Any:
    if isinstance(value, Mapping):
        return value.items()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
    if isinstance(value, (tuple, list)):
        return zip(getattr(value, "_fields", range(len(value))), value, strict=True)
    where = f" at '{name}'" if name else ""
    raise InvalidInput(f"the network must return tensors, got {type(value).__name__}{where}; wrap the model")


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
