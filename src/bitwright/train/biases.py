"""Biases whose moves are learned."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from bitwright.quantizers.bias import BiasQuantizer
from bitwright.quantizers.learned_step import LearnedStep


class LearnedBias:
    """A bias whose moves are learned, in units of the noise that rounding adds to the layer's output.

    Args:
        bias: follows it.
        own: its float values, (channels,).
        bits: the width of the layer's weight.
        learned: site -> learned step, for the unit.
    """

    def __init__(self, bias: BiasQuantizer, own: Tensor, bits: int, learned: dict[str, LearnedStep]) -> None:
        self.bias, self.bits, self.name = bias, bits, bias.name
        self._before = bias.corrections.get(bits)
        self.start = (own if self._before is None else self._before).detach().clone()
        self.move = nn.Parameter(torch.zeros_like(self.start))
        weight = learned[bias.weight_site]
        inputs = learned.get(bias.input_site or "")
        terms = weight.weight.numel() / max(self.start.numel(), 1)
        # Uniform rounding errors have a variance of step^2 / 12; inputs lie about a quarter of their range from zero.
        size = 1.0 if inputs is None else float(inputs.first.mean()) * 2.0**inputs.width / 4
        step = weight.first.flatten()
        step = step if step.numel() == self.start.numel() else step.mean()
        self.unit = (step * math.sqrt(terms / 12) * size).to(self.start).expand_as(self.start)

    def value(self) -> Tensor:
        """(channels,) the present bias, with the gradient of the moves."""
        return self.start + self.unit * self.move

    def put(self) -> None:
        """Have the network use the present bias."""
        self.bias.corrections[self.bits] = self.value()

    def keep(self) -> None:
        """Make the present bias a correction like any other."""
        self.bias.correct(self.bits, self.value())

    def undo(self) -> None:
        """Go back to the correction that was there, or to none."""
        self.bias.correct(self.bits, self._before)
