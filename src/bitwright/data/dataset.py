"""What every data set here is: a sized, indexable object that gives checked batches as often as asked.

A batch is a pair ``(inputs, targets)`` of tensors with the samples along the first axis; for a network with several
inputs, ``inputs`` is a tuple of tensors, or a dictionary by name. Inputs are float32, or int64 where the data holds
whole numbers such as token ids, or bool; 8-bit unsigned integers are taken as pixels and scaled to [0, 1]. Targets are
int64 class numbers from 0, one for each sample or, for segmentation, one for each pixel. Where the number of classes
is not known, they can also be float32 values of any shape, for regression. Data without targets has targets of shape
(N, 0). Of several positions those with the target -100 do not count.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bitwright.data.inputs import Inputs, as_tuple, join, samples_in, select
from bitwright.errors import InvalidData, InvalidInput
from bitwright.graph.calling import named_inputs

IGNORED = -100
"""The target of positions that do not count, PyTorch's own."""
Batch = tuple[Inputs, Tensor]
"""Inputs (N, ...), or a tuple of such, and targets (N,) or (N, H, W)."""


class Dataset(ABC):
    """One part of the data, in a fixed order.

    Attributes:
        name: what the data is called in messages and records, for example ``"cifar10 calibration"``.
    """

    name: str

    @abstractmethod
    def __len__(self) -> int:
        """The number of samples."""

    @property
    def classes(self) -> int | None:
        """The number of classes, or None where the data does not say."""
        return None

    @abstractmethod
    def read(self, start: int, stop: int) -> Batch:
        """Return the samples ``start`` to ``stop - 1``, checked.

        Raises:
            InvalidData: the samples cannot be read, hold NaN, or have targets outside the classes.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """A SHA-256 digest in hexadecimal that is the same, run after run, as long as the content is."""

    def __getitem__(self, index: int) -> Batch:
        """Return one sample, without the batch axis."""
        size = len(self)
        if not -size <= index < size:
            raise IndexError(f"index {index} is out of range: the number of samples of {self.name} is {size}")
        inputs, targets = self.read(index % size, index % size + 1)
        return select(inputs, 0), targets[0]

    def batches(self, batch_size: int, limit: int | None = None) -> Batches:
        """Return an iterable over the first ``limit`` samples (None: all), which starts anew each time.

        Raises:
            InvalidInput: ``batch_size`` or ``limit`` is below 1.
        """
        for parameter, value in (("batch_size", batch_size), ("limit", limit)):
            if value is not None and value < 1:
                raise InvalidInput(f"{parameter} must be at least 1, got {value} for {self.name}")
        return Batches(self, batch_size, limit)

    def stream(self, batch_size: int, size: int) -> Iterator[Batch]:
        """Give the first ``size`` samples in batches; the last one may be smaller."""
        for start in range(0, size, batch_size):
            yield self.read(start, min(start + batch_size, size))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


@dataclass(frozen=True)
class Batches:
    """The first ``limit`` samples of a data set in batches: an iterable with a length."""

    dataset: Dataset
    batch_size: int
    limit: int | None = None

    @property
    def samples(self) -> int:
        """How many samples one pass gives."""
        size = len(self.dataset)
        return size if self.limit is None else min(self.limit, size)

    def __len__(self) -> int:
        return -(-self.samples // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        return self.dataset.stream(self.batch_size, self.samples)


@dataclass(frozen=True)
class DataSets:
    """Data for one job.

    Attributes:
        calibration: taken from training data only; every choice is made on it.
        evaluation: taken from test data only; figures are measured on it, nothing is chosen on it.
    """

    calibration: Dataset
    evaluation: Dataset


def lengths(batch: Batch) -> tuple[torch.Size, ...]:
    """The shape of one sample of each input and of the targets."""
    return tuple(value.shape[1:] for value in (*as_tuple(batch[0]), batch[1]))


def joined(batches: Sequence[Batch]) -> Batch:
    """The samples of several batches one after the other."""
    return join([inputs for inputs, _ in batches]), torch.cat([targets for _, targets in batches])


def to_inputs(values: Any, name: str, first: int = 0) -> Inputs:
    """Return the inputs of a batch, checked: one tensor, or a tuple where there are several; see :func:`to_input`.

    Raises:
        InvalidData: one of them is unusable, or they have different numbers of samples.
    """
    if isinstance(values, Mapping):
        named = named_inputs(values)
        given = to_inputs(list(named), name, first)
        return dict(zip(named.names, as_tuple(given), strict=True))
    if not isinstance(values, list | tuple) or not values or not isinstance(values[0], Tensor | np.ndarray):
        return to_input(values, name, first)
    tensors = tuple(to_input(value, name, first) for value in values)
    sizes = [len(tensor) for tensor in tensors]
    if len(set(sizes)) > 1:
        raise InvalidData(
            f"the inputs of {name} must all have the same number of samples, got {' and '.join(map(str, sizes))}"
        )
    return tensors if len(tensors) > 1 else tensors[0]


def to_input(values: Any, name: str, first: int = 0) -> Tensor:
    """Return ``values`` as a float32 tensor (or int64 for whole numbers wider than 8 bits, or bool), checked.

    Args:
        values: a tensor or array with the samples along the first axis; uint8 is scaled to [0, 1].
        name: the data set, for messages.
        first: the number of the first sample, for messages.

    Raises:
        InvalidData: ``values`` is no array of numbers or holds NaN or infinity.
    """
    tensor = _to_tensor(values, "inputs", name)
    if tensor.dtype == torch.uint8:
        return tensor.to(torch.float32).div_(255)
    if not tensor.is_floating_point():
        return tensor if tensor.dtype == torch.bool else tensor.to(torch.int64)
    tensor = tensor.to(torch.float32)
    # the sum is finite only if every value is, and needs no memory; overflow is settled by the exact test
    if not bool(torch.isfinite(tensor.sum())):
        _check_finite(tensor, "inputs", name, first)
    return tensor


def _check_finite(tensor: Tensor, what: str, name: str, first: int) -> None:
    bad = (~torch.isfinite(tensor)).reshape(len(tensor), -1).any(dim=1)
    if bool(bad.any()):
        index = first + int(bad.nonzero()[0])
        raise InvalidData(f"the {what} of {name} hold NaN or infinity, first in sample {index}")


def to_targets(values: Any, name: str, classes: int | None = None, first: int = 0, *, floats: bool = False) -> Tensor:
    """Return ``values`` as an int64 tensor of class numbers, checked against ``classes``.

    Args:
        values: a tensor or array with the samples along the first axis.
        name: the data set, for messages.
        classes: how many there are; None: unknown.
        first: the number of the first sample, for messages.
        floats: let floating-point values be, as float32: those of a regression.

    Raises:
        InvalidData: a target is no whole number, is negative, or is at least ``classes``; or it is not finite.
    """
    tensor = _to_tensor(values, "targets", name)
    if floats and tensor.is_floating_point():
        tensor = tensor.to(torch.float32)
        _check_finite(tensor, "targets", name, first)
        return tensor
    if tensor.is_floating_point() or tensor.dtype == torch.bool:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise InvalidData(f"the targets of {name} must be integers (class numbers from 0), got {kind}")
    tensor = tensor.to(torch.int64)
    outside = tensor < 0 if classes is None else (tensor < 0) | (tensor >= classes)
    if tensor.dim() > 1:
        outside &= tensor != IGNORED
    if bool(outside.any()):
        position = outside.nonzero()[0]
        value = int(tensor[tuple(position)])
        limits = "at least 0" if classes is None else f"between 0 and {classes - 1}"
        raise InvalidData(f"the targets of {name} must be {limits}, got {value} in sample {first + int(position[0])}")
    return tensor


def check_lengths(inputs: Any, targets: Any, name: str) -> None:
    """Raise `InvalidData` unless both have the same number of samples, at least one."""
    size = samples_in(inputs)
    if size != len(targets):
        raise InvalidData(
            f"{name} has {size} inputs and {len(targets)} targets: there must be one target for each input"
        )
    if size == 0:
        raise InvalidData(f"{name} has no samples")


def digest(*contents: Any) -> str:
    """SHA-256 over tensors or arrays (dtype, shape and bytes) and anything else (its text)."""
    total = hashlib.sha256()
    for content in contents:
        if isinstance(content, Tensor):
            content = content.detach().cpu().numpy()
        if isinstance(content, np.ndarray):
            total.update(f"{content.dtype.str}{content.shape}".encode())
            total.update(np.ascontiguousarray(content).data)
        else:
            total.update(content if isinstance(content, bytes) else str(content).encode())
        total.update(b";")
    return total.hexdigest()


def _to_tensor(values: Any, what: str, name: str) -> Tensor:
    if isinstance(values, Tensor):
        tensor = values.detach()
        if tensor.is_complex():
            raise InvalidData(f"the {what} of {name} must be real numbers, got {tensor.dtype}")
    else:
        if isinstance(values, list | tuple) and values and isinstance(values[0], Tensor):
            raise InvalidData(f"the {what} of {name} must be one tensor, got a {type(values).__name__} of tensors")
        try:
            array = np.asarray(values)
        except ValueError as error:
            raise InvalidData(f"the {what} of {name} must be one array of numbers, got ragged lists") from error
        if array.dtype.kind not in "fiub":
            got = type(values).__name__ if array.dtype.kind == "O" else array.dtype
            raise InvalidData(f"the {what} of {name} must be a tensor of numbers, got {got}")
        if array.dtype.byteorder == ">" or array.dtype in (np.uint16, np.uint32, np.uint64):
            array = array.astype(np.int64 if array.dtype.kind in "iu" else np.float64)
        tensor = torch.from_numpy(np.require(array, requirements=["C", "W"]))
    if tensor.ndim == 0:
        raise InvalidData(f"the {what} of {name} must have the samples along the first axis, got a single number")
    return tensor
