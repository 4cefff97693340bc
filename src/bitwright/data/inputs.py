"""Inputs of a batch: one tensor, or for a network with several a tuple, or a dictionary by name; samples come first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Inputs = Tensor | tuple[Tensor, ...] | dict[str, Tensor]


def as_tuple(inputs: Inputs) -> tuple[Tensor, ...]:
    """The tensors, in the order of the network's arguments; of a dictionary, in its own."""
    if isinstance(inputs, dict):
        return tuple(inputs.values())
    return inputs if isinstance(inputs, tuple) else (inputs,)


def samples_in(inputs: Inputs) -> int:
    """Number of samples."""
    return len(as_tuple(inputs)[0])


def select(inputs: Inputs, which: Any) -> Inputs:
    """The samples that an index, a slice or a tensor of indices picks, of each tensor."""
    return _like(inputs, [value[which] for value in as_tuple(inputs)])


def join(parts: Sequence[Inputs]) -> Inputs:
    """The samples of several batches one after the other."""
    return _like(parts[0], [torch.cat(values) for values in zip(*(as_tuple(part) for part in parts), strict=True)])


def _like(inputs: Inputs, values: Sequence[Tensor]) -> Inputs:
    if isinstance(inputs, dict):
        return dict(zip(inputs, values, strict=True))
    return tuple(values) if isinstance(inputs, tuple) else values[0]
