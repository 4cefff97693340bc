"""Batches for training: mixed anew in each epoch, augmented where asked, and the same again after an interruption."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from bitwright.errors import InvalidData
from bitwright.graph.batches import KEEP_BYTES, Batch, as_batches, iterate
from bitwright.graph.graph import Graph
from bitwright.numerics.randomness import seeded

Augment = Callable[[tuple[Any, ...]], tuple[Any, ...]]


class Feed:
    """The batches of each epoch.

    Batches of tensors that fit into memory are mixed sample by sample in each epoch. All others come in the order of
    their source, which is then read anew each time, so that a loader of the user's own shuffles and augments as it is
    used to.

    Args:
        batches: iterable of (inputs, targets).
        graph: they are for: its inputs in its order, on its device.
        seed: of everything that is drawn at random, together with the number of the epoch.
        shuffle: mix the samples; None: if the source is a list or a tuple, since a loader has an order of its own.
        augment: changes the inputs of a batch.
    """

    def __init__(
        self,
        batches: Any,
        graph: Graph | None = None,
        seed: int = 0,
        shuffle: bool | None = None,
        augment: Augment | None = None,
    ) -> None:
        self._source: Iterable[Any] = as_batches(batches)
        self._graph, self._seed, self.augment = graph, seed, augment
        wanted = isinstance(self._source, (list, tuple)) if shuffle is None else shuffle
        self._whole = self._gathered() if wanted else None
        self._size = 0
        if self._whole is None:
            self.samples = self.batches = 0
            for inputs, _ in iterate(self._source, self._graph, "training"):
                self.samples += len(inputs[0])
                self.batches += 1
        else:
            self.samples = len(self._whole[0][0])
            self._size = len(next(iter(iterate(self._source, self._graph, "training")))[0][0])
            self.batches = -(-self.samples // self._size)

    @property
    def unlabelled(self) -> bool:
        """Whether the first batch has no targets."""
        return next(iter(iterate(self._source, self._graph, "training")))[1] is None

    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches of an epoch, counted from 0: the same whenever it is asked for."""
        with seeded(self._seed + 1000003 * (number + 1)):
            for inputs, targets in self._batches():
                if self.augment is not None:
                    inputs = self.augment(inputs)
                yield inputs, targets

    def _batches(self) -> Iterator[Batch]:
        if self._whole is None:
            yield from iterate(self._source, self._graph, "training")
            return
        inputs, targets = self._whole
        order = torch.randperm(self.samples).to(inputs[0].device)
        for start in range(0, self.samples, self._size):
            part = order[start : start + self._size]
            if len(part) == 1 and start:
                return  # nothing that looks at a whole batch works with one sample
            chosen = tuple(value[part] for value in inputs)
            yield chosen, None if targets is None else targets[part]

    def _gathered(self) -> Batch | None:
        """All samples as one batch; None where they are too large or are not tensors of one shape."""
        inputs: list[tuple[Any, ...]] = []
        targets: list[Any] = []
        size = 0
        for values, wanted in iterate(self._source, self._graph, "training"):
            size += sum(value.nbytes for value in values)
            plain = wanted is None or (isinstance(wanted, Tensor) and wanted.dim() > 0)
            alike = not inputs or [v.shape[1:] for v in values] == [v.shape[1:] for v in inputs[0]]
            if size > KEEP_BYTES or not plain or not alike or (inputs and (wanted is None) != (targets[0] is None)):
                return None
            inputs.append(values)
            targets.append(wanted)
        if not inputs:
            raise InvalidData("batches are empty: training needs at least one batch")
        whole = tuple(torch.cat(parts) for parts in zip(*inputs, strict=True))
        return whole, None if targets[0] is None else torch.cat(targets)


def picked(targets: Any, order: Tensor) -> Any:
    """The targets of some samples of a batch, in this order; what belongs to no sample stays."""
    if isinstance(targets, Tensor) and targets.dim() > 0:
        return targets[order]
    if isinstance(targets, Mapping):
        return {name: picked(value, order) for name, value in targets.items()}
    return [targets[i] for i in order.tolist()] if isinstance(targets, list) else targets


def mirrored_and_shifted(inputs: tuple[Any, ...], pixels: int = 4) -> tuple[Any, ...]:
    """Images (N, C, H, W) mirrored at random and moved by up to some pixels, as CIFAR networks are trained."""
    (images, *rest) = inputs
    if images.dim() != 4:
        raise InvalidData(f"augmenting images needs inputs (N, C, H, W), got shape {tuple(images.shape)}")
    count, _, height, width = images.shape
    device = images.device
    mirrored = torch.rand(count, device=device) < 0.5
    images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    padded = torch.nn.functional.pad(images, (pixels,) * 4)
    down, right = torch.randint(0, 2 * pixels + 1, (2, count), device=device)
    rows = down[:, None] + torch.arange(height, device=device)
    columns = right[:, None] + torch.arange(width, device=device)
    each = torch.arange(count, device=device)
    moved = padded.permute(0, 2, 3, 1)[each[:, None, None], rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2).contiguous(), *rest
