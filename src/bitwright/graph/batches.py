"""Batches of (inputs, targets), whatever iterable the user has: checked once, moved to the graph's device."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from bitwright.errors import InvalidData
from bitwright.graph.calling import Named, each, named_inputs, targets_in

if TYPE_CHECKING:
    from bitwright.graph.graph import Graph

Batch = tuple[tuple[Any, ...], Any]

KEEP_BYTES = 1 << 30  # of inputs that are kept decoded: 1 GiB


def as_batches(batches: Any) -> Iterable[Any]:
    """Something that can be iterated over more than once: generators and iterators are kept as a list."""
    if isinstance(batches, Tensor):
        raise InvalidData("batches must be an iterable of (inputs, targets), got a tensor; wrap it: [(x, y)]")
    if isinstance(batches, Mapping):
        raise InvalidData("batches must be an iterable of batches, got one batch, a dictionary; wrap it: [batch]")
    if not hasattr(batches, "__iter__"):
        raise InvalidData(f"batches must be an iterable of (inputs, targets), got {type(batches).__name__}")
    return list(batches) if iter(batches) is batches else batches


def split(batch: Any) -> Batch:
    """One batch as (inputs, targets); targets are None when there are none.

    Raises:
        InvalidData: NaN in the inputs, or an empty batch.
    """
    targets = None
    if isinstance(batch, Tensor):
        inputs: tuple[Any, ...] = (batch,)
    elif isinstance(batch, Mapping):
        inputs, targets = named_inputs(batch), targets_in(batch)
    elif isinstance(batch, (tuple, list)) and len(batch) == 2:
        given, targets = batch
        if isinstance(given, Mapping):
            inputs = named_inputs(given)
        elif isinstance(given, (tuple, list)):
            inputs = given if isinstance(given, Named) else tuple(given)
        else:
            inputs = (given,)
    else:
        raise InvalidData(f"a batch must be (inputs, targets), got {type(batch).__name__} of length {_length(batch)}")
    if isinstance(targets, list) and targets and all(isinstance(value, (int, float)) for value in targets):
        targets = torch.tensor(targets)
    for value in inputs:
        if not isinstance(value, Tensor):
            raise InvalidData(f"inputs must be tensors, got {type(value).__name__}; convert the data first")
        if value.dim() == 0 or value.shape[0] == 0:
            raise InvalidData(f"a batch holds no samples: its inputs have shape {tuple(value.shape)}")
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise InvalidData("the inputs hold NaN or infinite values; clean the data first")
    count = len(inputs[0])
    entries: Iterable[Any] = targets.values() if isinstance(targets, Mapping) else (targets,)
    for value in entries:
        tensor = isinstance(value, Tensor) and value.dim() > 0
        if not tensor and (not isinstance(value, list) or any(_holds_samples(entry, count) for entry in value)):
            continue  # for all samples, or of several outputs
        if len(value) != count:
            raise InvalidData(f"a batch has {count} inputs but {len(value)} targets")
    if isinstance(targets, Tensor) and targets.dim() > 1 and targets.numel() == 0:
        targets = None  # data of inputs alone
    return inputs, targets


def _length(batch: Any) -> Any:
    return len(batch) if hasattr(batch, "__len__") else "unknown"


def iterate(batches: Iterable[Any], graph: Graph | None = None, purpose: str = "this step") -> Iterator[Batch]:
    """Checked batches, at least one; for a graph on its device, the inputs in its order.

    Raises:
        InvalidData: there is no batch at all, or one of them is unusable.
    """
    for inputs, targets in batches if isinstance(batches, Checked) else _checked(batches, purpose):
        if graph is not None:
            inputs, device = graph.arranged(inputs), graph.device
            targets = tree_map_only(Tensor, partial(Tensor.to, device=device), targets)
        yield inputs, targets


def _checked(batches: Iterable[Any], purpose: str) -> Iterator[Batch]:
    count = 0
    for batch in batches:
        count += 1
        yield split(batch)
    if count == 0:
        raise InvalidData(
            f"batches are empty: {purpose} needs at least one batch (an iterator that was used up is empty)"
        )


class Checked:
    """Batches that were read, decoded and checked once, and are kept while they fit into memory.

    Args:
        source: iterable of (inputs, targets) that can be iterated over again, in the same order.
        limit: the first samples only; None: all.
        purpose: what needs them, for messages.
        graph: whose order and device the inputs get; None: as they are given.
    """

    def __init__(
        self,
        source: Iterable[Any],
        limit: int | None = None,
        purpose: str = "this step",
        graph: Graph | None = None,
    ) -> None:
        self._source, self._limit, self._purpose, self._graph = as_batches(source), limit, purpose, graph
        self._kept: list[Batch] | None = None
        self._begun: Iterator[Batch] | None = None

    def _read(self) -> Iterator[Batch]:
        begun, self._begun = self._begun, None
        return limited(iterate(self._source, self._graph, self._purpose), self._limit) if begun is None else begun

    def __iter__(self) -> Iterator[Batch]:
        if self._kept is not None:
            yield from self._kept
            return
        kept: list[Batch] = []
        size = 0
        for batch in self._read():
            size += sum(value.nbytes for value in batch[0])
            kept = [*kept, batch] if size <= KEEP_BYTES else []
            yield batch
        if size <= KEEP_BYTES:
            self._kept = kept

    @cached_property
    def first(self) -> Batch:
        """The first batch; the next pass over the data goes on from it."""
        if self._kept is not None:
            return self._kept[0]
        batches = self._read()
        first = next(batches)
        self._begun = itertools.chain([first], batches)
        return first

    @cached_property
    def samples(self) -> int:
        """How many samples there are."""
        return sum(inputs[0].shape[0] for inputs, _ in self)


def limited(batches: Iterable[Batch], samples: int | None) -> Iterator[Batch]:
    """The first ``samples`` samples of batches, the last batch cut where needed; None: all."""
    left = samples
    for batch in batches:
        yield batch if left is None else cut(batch, 0, left)
        if left is not None:
            left -= batch[0][0].shape[0]
            if left <= 0:
                return


def cut(batch: Batch, start: int, stop: int) -> Batch:
    """The samples ``start`` to ``stop - 1`` of a batch: of its inputs, and of every tensor and list in its targets.

    Tensors are cut along their first axis; dictionaries, dataclasses, and lists or tuples of the targets of several
    outputs entry by entry; a list or tuple with an entry for each sample is cut itself. Numbers, texts and None in
    between are for all samples.

    Raises:
        InvalidData: targets hold something of which it is not clear what belongs to which sample.
    """
    inputs, targets = batch
    count = inputs[0].shape[0]
    if start <= 0 and stop >= count:
        return batch
    part = slice(start, stop)
    return each(inputs, lambda value: value[part]), _cut(targets, part, count)


_FOR_ALL = (str, bytes, int, float, type(None))


def _cut(targets: Any, part: slice, count: int) -> Any:
    if isinstance(targets, _FOR_ALL) or (isinstance(targets, Tensor) and targets.dim() == 0):
        return targets
    if isinstance(targets, Mapping):
        return type(targets)({key: _cut(value, part, count) for key, value in targets.items()})  # type: ignore[call-arg]
    if dataclasses.is_dataclass(targets) and not isinstance(targets, type):
        entries = {field.name: getattr(targets, field.name) for field in dataclasses.fields(targets) if field.init}
        return dataclasses.replace(targets, **{key: _cut(value, part, count) for key, value in entries.items()})
    if isinstance(targets, tuple) and hasattr(targets, "_fields"):
        return type(targets)(*(_cut(entry, part, count) for entry in targets))
    if isinstance(targets, (list, tuple)):
        return _cut_sequence(targets, part, count)
    if getattr(targets, "shape", ())[:1] == (count,):
        return targets[part]
    shape = f" of shape {tuple(targets.shape)}" if hasattr(targets, "shape") else ""
    raise InvalidData(
        f"targets hold a {type(targets).__name__}{shape} in a batch of {count} samples, which cannot be cut along the "
        "samples; make its first axis that of the samples, or a list with an entry for each sample"
    )


def _cut_sequence(targets: Any, part: slice, count: int) -> Any:
    """A list along its samples if it has an entry for each, else entry by entry."""
    whole = [_holds_samples(entry, count) for entry in targets]
    if len(targets) == count and not (all(whole) and count > 1):
        return targets[part]
    if len(targets) == count:
        raise InvalidData(
            f"targets hold a {type(targets).__name__} of {count} entries in a batch of {count} samples, which "
            "could be one for each sample or one for each output; pass a dictionary by output, or a list of "
            "dictionaries by sample"
        )
    return type(targets)(_cut(entry, part, count) for entry in targets)


def _holds_samples(entry: Any, count: int) -> bool:
    """Whether an entry of a list may hold something for each sample; a dictionary in a list is of one sample."""
    if isinstance(entry, (list, tuple)):
        return len(entry) == count or any(_holds_samples(inner, count) for inner in entry)
    return getattr(entry, "shape", ())[:1] == (count,)
