"""Data that a user's own code makes, in the form that Bitwright works on.

Taken as one part of the data: a Bitwright `Dataset`; a pair of arrays or tensors ``(inputs, targets)``; a torch
``Dataset`` of samples; a ``DataLoader``; any other iterable of batches ``(inputs, targets)``. For a network with
several inputs, ``inputs`` is a tuple of tensors, or a dictionary of them by name. Targets are class numbers, or floats
for regression, or None where there are none, as for embeddings. A batch, or a sample, can also be one dictionary whose
entry ``labels`` or ``targets`` holds its targets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import data as torch_data

from bitwright.data.array_dataset import ArrayDataset
from bitwright.data.dataset import (
    Batch,
    Dataset,
    DataSets,
    check_lengths,
    digest,
    joined,
    lengths,
    to_inputs,
    to_targets,
)
from bitwright.data.inputs import Inputs, as_tuple, samples_in, select
from bitwright.errors import InvalidData, InvalidInput, first_line
from bitwright.graph.calling import targets_in
from bitwright.numerics.randomness import seeded

DIGEST_SAMPLES = 64  # read at once for a fingerprint


def as_data(data: Any) -> DataSets:
    """Return ``data`` as `DataSets`.

    Args:
        data: an object with ``.calibration`` and ``.evaluation``, or the pair of both. Each part is in one of the
            forms that this module lists; see `as_dataset` for what becomes of it.

    Raises:
        InvalidInput: ``data`` is neither.
        InvalidData: a part is unusable.
    """
    if isinstance(data, DataSets):
        return data
    if hasattr(data, "calibration") and hasattr(data, "evaluation"):
        parts = (data.calibration, data.evaluation)
    elif isinstance(data, list | tuple) and len(data) == 2:
        parts = (data[0], data[1])
    else:
        raise InvalidInput(
            f"data must be a pair (calibration, evaluation) or have .calibration and .evaluation, "
            f"got {type(data).__name__}"
        )
    return DataSets(as_dataset(parts[0], "calibration data"), as_dataset(parts[1], "evaluation data"))


def as_dataset(part: Any, name: str) -> Dataset:
    """Return one part of the data as a `Dataset`.

    The order of the samples is fixed: a ``DataLoader`` that shuffles is given one permutation, the same in every
    run, and its own samplers are seeded. Its workers are not used. An iterator that can be read only once is read at
    once and kept.

    Raises:
        InvalidInput: ``part`` has none of the forms that this module lists.
    """
    if isinstance(part, Dataset):
        return part
    if isinstance(part, list | tuple) and len(part) == 2 and all(_is_array(value) for value in part):
        inputs, targets = part
        return ArrayDataset(name, lambda: (inputs, targets))
    if isinstance(part, Mapping):
        return BatchStream(name, [part])
    if isinstance(part, list | tuple) and len(part) == 2 and (part[1] is None or _is_array(part[1])):
        return BatchStream(name, [part])  # several inputs, ((ids, mask), targets), or inputs alone, (inputs, None)
    if isinstance(part, torch_data.DataLoader):
        return _from_loader(part, name)
    if _gives_samples(part):
        return SampleDataset(name, part)
    if isinstance(part, torch_data.IterableDataset):
        raise InvalidInput(f"{name} is an IterableDataset, which gives single samples: wrap it in a DataLoader")
    if isinstance(part, str | bytes) or _is_array(part) or not isinstance(part, Iterable):
        raise InvalidInput(f"{name} must give batches (inputs, targets), got {type(part).__name__}")
    return BatchStream(name, list(part) if isinstance(part, Iterator) else part)


def _drawn(loader: torch_data.DataLoader[Any]) -> list[int]:
    """What a loader's samplers draw: the same in every run, whichever of Python, NumPy and torch they draw with."""
    sampler = loader.batch_sampler
    generators = [getattr(part, "generator", None) for part in (sampler, loader.sampler)]
    own = [(generator, generator.get_state()) for generator in generators if isinstance(generator, torch.Generator)]
    with seeded(0):
        try:
            for generator, _ in own:
                generator.manual_seed(0)
            assert sampler is not None
            return [index for batch in sampler for index in batch]
        finally:
            for generator, state in own:
                generator.set_state(state)


def _gives_samples(part: Any) -> bool:
    """Whether it is a torch ``Dataset``, or gives samples by number as one does, each a dictionary."""
    if isinstance(part, torch_data.Dataset):
        return not isinstance(part, torch_data.IterableDataset)
    indexed = hasattr(part, "__getitem__") and hasattr(part, "__len__") and not isinstance(part, list | tuple | str)
    return indexed and len(part) > 0 and not _is_array(part) and isinstance(part[0], Mapping)


def _from_loader(loader: torch_data.DataLoader[Any], name: str) -> Dataset:
    source = loader.dataset
    if isinstance(source, torch_data.IterableDataset) or loader.batch_sampler is None:
        return BatchStream(name, loader)
    indices: Sequence[int] | None
    plain = type(loader.batch_sampler) is torch_data.BatchSampler
    if plain and isinstance(loader.sampler, torch_data.SequentialSampler):
        indices = None
    elif plain and type(loader.sampler) is torch_data.RandomSampler and loader.sampler.num_samples == len(source):  # type: ignore[arg-type]
        indices = np.random.RandomState(0).permutation(len(source)).tolist()  # type: ignore[arg-type]
    else:
        indices = _drawn(loader)
    return SampleDataset(name, source, indices, loader.collate_fn)


class SampleDataset(Dataset):
    """Samples of a torch ``Dataset``.

    Args:
        name: what the data is called in messages.
        source: ``source[i]`` is the sample i, a pair (input, target).
        indices: which samples, in which order; None: all of them in order.
        collate: makes a batch of a list of samples; None: torch's own way.
    """

    def __init__(
        self,
        name: str,
        source: Any,
        indices: Sequence[int] | None = None,
        collate: Callable[[list[Any]], Any] | None = None,
    ) -> None:
        self.name = name
        self.source = source
        self.indices = range(len(source)) if indices is None else indices
        self.collate = collate or torch_data.default_collate
        if len(self.indices) == 0:
            raise InvalidData(f"{name} has no samples")

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, start: int, stop: int) -> Batch:
        """Return the samples ``start`` to ``stop - 1``."""
        samples = [self.source[index] for index in self.indices[start:stop]]
        try:
            batch = self.collate(samples)
        except RuntimeError as error:
            raise InvalidData(
                f"the samples {start} to {stop - 1} of {self.name} make no batch: {first_line(error)}; pad them in the "
                "collate_fn of a DataLoader, or give batches of samples of one length"
            ) from error
        return _checked(batch, self.name, start)

    def fingerprint(self) -> str:
        """A digest of every sample."""
        total = ""
        for inputs, targets in self.batches(DIGEST_SAMPLES):
            total = digest(total, *as_tuple(inputs), targets)
        return total


class BatchStream(Dataset):
    """Samples of an iterable of batches, put together again to batches of any size.

    Every pass iterates over the source anew; only one of its batches and one of the result are held at a time.
    The number of samples and the fingerprint take one pass; `read` has to go through all batches before ``stop``.
    """

    def __init__(self, name: str, source: Iterable[Any]) -> None:
        self.name = name
        self.source = source

    def __len__(self) -> int:
        return self._size_and_digest[0]

    def fingerprint(self) -> str:
        """A digest of every batch."""
        return self._size_and_digest[1]

    def read(self, start: int, stop: int) -> Batch:
        """Return the samples ``start`` to ``stop - 1``."""
        for batch in self._rebatched(start, stop, stop - start):
            return batch
        raise InvalidData(f"{self.name} has no samples {start} to {stop - 1}")

    def stream(self, batch_size: int, size: int) -> Iterator[Batch]:
        """Give the first ``size`` samples in batches; the last one may be smaller."""
        return self._rebatched(0, size, batch_size)

    def _rebatched(self, start: int, stop: int, batch_size: int) -> Iterator[Batch]:
        held: list[Batch] = []
        count = 0
        for inputs, targets, first in self._batches():
            size = samples_in(inputs)
            if held and lengths((inputs, targets)) != lengths(held[0]):  # a batch has samples of one length
                yield joined(held)
                held, count = [], 0
            low, high = max(start - first, 0), min(stop - first, size)
            while low < high:
                taken = min(high - low, batch_size - count)
                held.append((select(inputs, slice(low, low + taken)), targets[low : low + taken]))
                low, count = low + taken, count + taken
                if count == batch_size:
                    yield joined(held)
                    held, count = [], 0
            if first + size >= stop:
                break
        if held:
            yield joined(held)

    def _batches(self) -> Iterator[tuple[Inputs, Tensor, int]]:
        first = 0
        for batch in self.source:
            inputs, targets = _checked(batch, self.name, first)
            yield inputs, targets, first
            first += samples_in(inputs)

    @cached_property
    def _size_and_digest(self) -> tuple[int, str]:
        size, total = 0, ""
        for inputs, targets, _ in self._batches():
            size += samples_in(inputs)
            total = digest(total, *as_tuple(inputs), targets)
        if size == 0:
            raise InvalidData(f"{self.name} has no samples")
        return size, total


def _checked(batch: Any, name: str, first: int) -> Batch:
    if isinstance(batch, Mapping):
        batch = batch, targets_in(batch)
    if not isinstance(batch, list | tuple) or len(batch) != 2:
        got = f"{len(batch)} values" if isinstance(batch, list | tuple) else type(batch).__name__
        raise InvalidData(
            f"a batch of {name} must be a pair (inputs, targets), (inputs, None) without targets, or a dictionary of "
            f"tensors by name, got {got}"
        )
    inputs = to_inputs(batch[0], name, first)
    if batch[1] is None:
        return inputs, torch.empty(samples_in(inputs), 0)
    targets = to_targets(batch[1], name, first=first, floats=True)
    check_lengths(inputs, targets, f"a batch of {name}")
    return inputs, targets


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray)
