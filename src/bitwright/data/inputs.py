"""Inputs of a batch: one tensor, or a tuple of tensors for a network with several; samples along the first axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["Inputs", "as_tuple", "join", "samples_in", "select"]

Inputs = Tensor | tuple[Tensor, ...]


def as_tuple(inputs: Inputs) -> tuple[Tensor, ...]:
    """The tensors, in the order of the network's arguments."""
    return inputs if isinstance(inputs, tuple) else (inputs,)


def samples_in(inputs: Inputs) -> int:
    """Number of samples."""
    return len(as_tuple(inputs)[0])


def select(inputs: Inputs, which: Any) -> Inputs:
    """The samples that an index, a slice or a tensor of indices picks, of each tensor."""
    return tuple(value[which] for value in inputs) if isinstance(inputs, tuple) else inputs[which]


def join(parts: Sequence[Inputs]) -> Inputs:
    """The samples of several batches one after the other."""
    joined = tuple(torch.cat(values) for values in zip(*(as_tuple(part) for part in parts), strict=True))
    return joined if isinstance(parts[0], tuple) else joined[0]
