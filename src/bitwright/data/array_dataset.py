"""A data set whose samples lie in two arrays, read when first needed and converted batch by batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from bitwright.data.dataset import Batch, Dataset, check_lengths, digest, to_input, to_targets
from bitwright.errors import InvalidData


@dataclass(frozen=True)
class Preparation:
    """What is done to the stored samples.

    Attributes:
        limit: keep at most this many samples; None keeps all.
        shuffle: seed of a fixed permutation, applied before ``limit``; None keeps the stored order.
        mean: subtracted from each channel, after pixels were scaled to [0, 1]; one number stands for all.
        std: what each channel is divided by then.
    """

    limit: int | None = None
    shuffle: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


class ArrayDataset(Dataset):
    """Samples in two arrays.

    The arrays are kept as they are stored (uint8 images stay uint8); a batch is converted when it is read.

    Args:
        name: what the data is called in messages.
        load: returns inputs (N, ...) and targets (N,) or (N, H, W), as arrays or tensors; called at most once. Targets
            without ``classes`` can be floats of any shape, too.
        preparation: order, number and normalisation of the samples.
        classes: the number of classes; None: unknown.
    """

    def __init__(
        self,
        name: str,
        load: Callable[[], tuple[Any, Any]],
        preparation: Preparation | None = None,
        classes: int | None = None,
    ) -> None:
        self.name = name
        self.preparation = preparation or Preparation()
        self._load = load
        self._classes = classes

    @property
    def classes(self) -> int | None:
        """The number of classes, or None where the data does not say."""
        return self._classes

    def __len__(self) -> int:
        return len(self._arrays[0])

    def read(self, start: int, stop: int) -> Batch:
        """Return the samples ``start`` to ``stop - 1``, normalised."""
        x, y = self._arrays
        inputs = to_input(x[start:stop], self.name, first=start)
        inputs = self._normalise(inputs)
        floats = self.classes is None
        return inputs, to_targets(y[start:stop], self.name, self.classes, first=start, floats=floats)

    def fingerprint(self) -> str:
        """A digest of every stored value and of the normalisation."""
        return digest(*self._arrays, self.preparation.mean, self.preparation.std)

    @cached_property
    def _arrays(self) -> tuple[Any, Any]:
        x, y = self._load()
        check_lengths(x, y, self.name)
        to_targets(y, self.name, self.classes, floats=self.classes is None)
        if x.ndim < 2:
            raise InvalidData(f"the inputs of {self.name} must be (samples, ...), got shape {tuple(x.shape)}")
        order = fixed_order(len(x), self.preparation)
        return (x, y) if order is None else (x[order], y[order])

    def _normalise(self, inputs: torch.Tensor) -> torch.Tensor:
        mean, std = self.preparation.mean, self.preparation.std
        if mean is None and std is None:
            return inputs
        per_channel = (-1,) + (1,) * max(inputs.ndim - 2, 0)
        for parameter, values in (("mean", mean), ("std", std)):
            if values is not None and len(values) not in (1, inputs.shape[1]):
                raise InvalidData(
                    f"{parameter} must have 1 or {inputs.shape[1]} values for {self.name}, got {len(values)}"
                )
        if mean is not None:
            inputs = inputs - torch.tensor(mean).reshape(per_channel)
        if std is not None:
            inputs = inputs / torch.tensor(std).reshape(per_channel)
        return inputs


def fixed_order(size: int, preparation: Preparation) -> Any | None:
    """Return the indices of the samples to keep, in order, or None for all of them as stored.

    The permutation comes from numpy's legacy generator, whose stream never changes from version to version.
    """
    limit = preparation.limit
    if preparation.shuffle is not None:
        return np.random.RandomState(preparation.shuffle).permutation(size)[:limit]
    return None if limit is None or limit >= size else np.arange(limit)
