"""Values of each sample, added up batch by batch; what is small is kept, outputs are not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bitwright.errors import InvalidInput
from bitwright.tasks.base import Answer, Task
from bitwright.tasks.intervals import Array


class Columns:
    """Name -> values of each sample, on the CPU."""

    def __init__(self) -> None:
        self._parts: list[dict[str, Any]] = []
        self.samples = 0

    def add(self, values: Mapping[str, Any], count: int) -> None:
        """Take in one batch: (N,) tensors, or lists of N things of any kind.

        Raises:
            InvalidInput: a task that gives no value for each sample.
        """
        self._parts.append({name: _array(value) for name, value in values.items()})
        for name, found in self._parts[-1].items():
            if found.shape[:1] != (count,):
                raise InvalidInput(
                    f"a task must give one value of '{name}' for each sample, shape ({count}, ...), got shape "
                    f"{found.shape}"
                )
        self.samples += count

    def all(self) -> dict[str, Array]:
        """What every batch had, one array for each name."""
        names = [name for name in self._parts[0] if all(name in part for part in self._parts)] if self._parts else []
        return {name: np.concatenate([part[name] for part in self._parts]) for name in names}


def _array(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.cpu().numpy()
    found = np.empty(len(value), dtype=object)
    found[:] = value
    return found


class Spread:
    """Variance of each output of the float model: over the samples, the mean over the entries."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._squares: dict[str, float] = {}
        self._samples = 0

    def add(self, outputs: Mapping[str, Tensor]) -> None:
        """Take in one batch.

        Raises:
            InvalidInput: an output whose shape is not the same in all batches.
        """
        for name, value in outputs.items():
            if not value.is_floating_point():
                continue
            total = value.double().sum(0)
            before = self._sums.get(name, torch.zeros_like(total))
            if before.shape != total.shape:
                raise InvalidInput(
                    f"the output '{name}' must have one shape in all batches, got {tuple(before.shape)} and "
                    f"{tuple(total.shape)} for a sample; pad the inputs to one size"
                )
            self._sums[name] = before + total
            self._squares[name] = self._squares.get(name, 0.0) + float(value.double().square().sum())
        self._samples += len(next(iter(outputs.values()), ()))

    def variances(self) -> dict[str, float]:
        """Output -> variance; 0 for one that is the same for all samples."""
        found = {}
        for name, total in self._sums.items():
            mean = total / self._samples
            whole = self._squares[name] / (self._samples * max(1, mean.numel()))
            variance = whole - float(mean.square().mean())
            found[name] = variance if variance > 1e-12 * whole else 0.0
        return found


class FloatSide:
    """The float model's side of a comparison: its values and the spread of its outputs."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self.columns = Columns()
        self._spread = Spread()

    def add(self, answer: Answer, details: bool = False) -> None:
        """Take in one batch, with what figures of all samples together need where it is asked for."""
        more = self._task.details(answer) if details else {}
        self.columns.add({**answer.own, **more}, answer.count)
        if self._task.scaled:
            self._spread.add(answer.outputs)

    @property
    def spread(self) -> dict[str, float]:
        """Output -> variance, for tasks that ask for it."""
        return self._spread.variances() if self._task.scaled else {}


def joined(values: Iterable[Any]) -> Any:
    """Outputs or targets of all batches, structure by structure, one after the other."""
    parts = list(values)
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(parts)
    if isinstance(first, Mapping):
        return {key: joined(part[key] for part in parts) for key in first}
    if isinstance(first, list):
        return [item for part in parts for item in part]
    if isinstance(first, tuple):
        return tuple(joined(part[i] for part in parts) for i in range(len(first)))
    raise InvalidInput(f"a metric needs tensors, or dictionaries or tuples of them, got {type(first).__name__}")
