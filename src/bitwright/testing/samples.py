"""The small network that contracts try things on, and what they all ask."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cache
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from bitwright.graph import calibrate, capture
from bitwright.graph.graph import Graph

CLASSES = 3
T = TypeVar("T")
Batch = tuple[Tensor, Tensor]


class Network(nn.Module):
    """Two convolutions with a shortcut, uneven channels, average pooling and a linear layer: 3 classes of 2x6x6."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.conv1, self.conv2 = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.relu = nn.ReLU()
        self.linear = nn.Linear(6, CLASSES)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter[0].numel() ** 0.5)
            self.conv1.weight.mul_(torch.logspace(-1, 1, 6)[:, None, None, None])

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3) logits."""
        x = self.relu(self.conv1(x))
        x = self.relu(self.conv2(x) + x)
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


def batches() -> list[Batch]:
    """Two batches of 32 samples with targets."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(64, 2, 6, 6, generator=generator)
    with torch.no_grad():
        targets = Network()(inputs).argmax(1)
    return list(zip(torch.split(inputs, 32), torch.split(targets, 32), strict=True))


def captured(quantizer: Any = None) -> Graph:
    """The network as a graph of one's own that is not calibrated; always the same."""
    if quantizer is None:
        return _captured().copy()
    return capture(Network().eval(), batches()[0][0][:2], quantizer=quantizer)


def calibrated(quantizer: Any = None) -> Graph:
    """The network as a calibrated graph of one's own, in float."""
    return _calibrated().copy() if quantizer is None else calibrate(captured(quantizer), batches())


@cache
def _captured() -> Graph:
    return capture(Network().eval(), batches()[0][0][:2])


@cache
def _calibrated() -> Graph:
    return calibrate(captured(), batches())


class Described(ABC, Generic[T]):
    """What everything that is registered must do: it says what it is."""

    @abstractmethod
    def make(self) -> T:
        """What is tested."""

    def test_it_says_what_it_is(self) -> None:
        """Name and sentence."""
        name, does = (getattr(self.make(), field, None) for field in ("name", "does"))
        assert isinstance(name, str), f"the name must be text, got {name!r}"
        assert name == name.strip().lower(), f"a name is in small letters, got '{name}'"
        assert not set(name) & set(" ,:=?"), f"a name has no blanks and none of ',:=?', got '{name}'"
        assert isinstance(does, str), f"'does' must be a sentence, got {does!r}"
        assert does.endswith("."), f"'does' must be a sentence, got {does!r}"
