"""What a shift is: inputs as they come in the world, described; and data under it, the same for every model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from bitwright.errors import InvalidData, InvalidInput
from bitwright.graph.batches import Batch, iterate
from bitwright.registry import Descriptor, Registry
from bitwright.values.behavior import SEVERITIES

Kind = Literal["images", "words"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Shift(Descriptor):
    """A function ``(inputs, severity, generator) -> inputs`` of the same shape, on the CPU.

    Images come and go as (N, C, H, W) from 0, black, to 1. For words, (N, T) whole numbers, the function is also given
    the largest number that the data holds: ``(inputs, severity, generator, largest)``.

    Attributes:
        kind: what it works on.
        channels: of the images for which it is taken unless shifts are named.
    """

    function: Callable[..., Tensor]
    given: tuple[str, ...] = ("inputs", "severity", "generator", "largest")
    kind: Kind = "images"
    channels: tuple[int, ...] = (1, 3)

    def __call__(self, inputs: Tensor, severity: int, seed: int = 0, largest: int = 0) -> Tensor:
        """The inputs under the shift; the same for the same seed.

        Raises:
            InvalidInput: a severity that there is not.
            InvalidData: inputs that it does not work on.
        """
        if severity not in SEVERITIES:
            raise InvalidInput(f"severity must be one of {', '.join(map(str, SEVERITIES))}, got {severity!r}")
        if kind_of(inputs) != self.kind:
            raise InvalidData(
                f"shift '{self.name}' works on {self.kind}, got inputs of shape {tuple(inputs.shape)} and "
                f"{str(inputs.dtype).removeprefix('torch.')}; choose another shift"
            )
        digest = hashlib.sha256(f"{self.name} {severity} {seed}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        if self.kind == "words":
            return self.function(inputs, severity, generator, largest)
        found: Tensor = self.function(inputs.float(), severity, generator).clamp(0, 1)
        return found.to(inputs.dtype)


SHIFTS: Registry[Shift] = Registry("shift", "bitwright.behavior")
"""Every shift by name."""


def registered(**about: Any) -> Callable[[Callable[..., Tensor]], Shift]:
    """Make a function the :class:`Shift` that these attributes describe, and register it."""
    return lambda function: SHIFTS.register(Shift(function=function, **about))


def kind_of(inputs: Tensor) -> Kind | None:
    """What some inputs are: images (N, C, H, W), words (N, T), or neither."""
    if inputs.dim() == 4 and inputs.is_floating_point() and inputs.shape[1] in (1, 3):
        return "images"
    return "words" if inputs.dim() == 2 and not inputs.is_floating_point() and inputs.dtype != torch.bool else None


@dataclass(frozen=True)
class Scale:
    """What black and white are in the data, channel by channel; for words the largest number.

    Attributes:
        kind: of the first input.
        low: (1, C, 1, 1) the smallest value of each channel in the data.
        span: (1, C, 1, 1) the largest minus the smallest.
        largest: the largest number of a word.
    """

    kind: Kind | None
    low: Tensor
    span: Tensor
    largest: int

    def suits(self, shift: Shift) -> bool:
        """Whether a shift is taken for these data unless shifts are named."""
        return shift.kind == self.kind and (self.kind == "words" or self.low.shape[1] in shift.channels)

    @classmethod
    def of(cls, batches: Any) -> Scale:
        """Of the first input of some batches.

        Raises:
            InvalidData: no data.
        """
        low = high = torch.empty(0)
        kind, largest = None, 0
        for inputs, _ in iterate(batches, purpose="behavior"):
            first = inputs[0].detach().cpu()
            kind = kind_of(first)
            if kind == "words":
                largest = max(largest, int(first.max()))
            elif kind == "images":
                ends = [each.flatten(2).amax(2).amax(0) for each in (-first, first)]
                low = ends[0] if not low.numel() else torch.maximum(low, ends[0])
                high = ends[1] if not high.numel() else torch.maximum(high, ends[1])
        low, high = -low, high
        span = (high - low).clamp_min(1e-12)
        shape = (1, -1, 1, 1)
        return cls(kind, low.reshape(shape), span.reshape(shape), largest)


class Under:
    """Batches under a shift: the same whenever they are iterated over.

    Args:
        batches: iterable of (inputs, targets), in the same order each time.
        shift: None for the data as they are.
        severity: 1 to 5.
        scale: of the data.
        seed: of everything that is drawn at random.
    """

    def __init__(self, batches: Any, shift: Shift | None, severity: int, scale: Scale, seed: int = 0) -> None:
        self._batches, self._shift, self._severity, self._scale, self._seed = batches, shift, severity, scale, seed

    def __iter__(self) -> Iterator[Batch]:
        for place, (inputs, targets) in enumerate(iterate(self._batches, purpose="behavior")):
            if self._shift is None:
                yield inputs, targets
                continue
            first, rest = inputs[0], inputs[1:]
            seed, scale = self._seed * 1_000_003 + place, self._scale
            if self._shift.kind == "words" or scale.kind != "images":  # what does not fit is refused there
                shifted = self._shift(first.cpu(), self._severity, seed, scale.largest)
            else:
                pixels = (first.cpu() - scale.low) / scale.span
                shifted = self._shift(pixels, self._severity, seed) * scale.span + scale.low
            yield (shifted.to(first), *rest), targets
