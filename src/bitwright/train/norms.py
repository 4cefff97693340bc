"""Batch norm kept live while a network is trained under rounding, and folded away again.

Capture folds batch norms into the convolutions in front of them. While weights and steps move, the outputs of these
convolutions drift and stretch, and every layer behind has to follow. A live norm holds mean and spread of each channel
where learned numbers say, whatever the weights do: it divides by the spread of the batch, with its gradient. Folding
puts the statistics, estimated anew, into the steps of the weight (its integers stay what they are) and into the bias.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch.fx import Node

from bitwright.graph.layers import Layer
from bitwright.graph.walk import Call
from bitwright.quantizers.learned_step import LearnedStep
from bitwright.train.biases import LearnedBias
from bitwright.train.workers import Workers

EPSILON = 1e-5


class LiveNorm:
    """The batch norm of one convolution.

    It begins as the identity: mean and spread that it gives the outputs are those that they have.

    Args:
        node: the convolution.
        weight: what its weight learns.
        bias: what its bias learns, once the norm is folded.
        workers: who shares the batches.

    Attributes:
        gain: logarithm of the spread that outputs get, as a ratio to the first one, (channels,).
        shift: what is added to their mean, in first spreads, (channels,).
        tensors: these, and the statistics, by name.
    """

    def __init__(self, node: Node, weight: LearnedStep, bias: LearnedBias, workers: Workers) -> None:
        self.node, self.weight, self.bias, self.workers = node, weight, bias, workers
        zeros, ones = torch.zeros_like(bias.start), torch.ones_like(bias.start)
        self.gain, self.shift = nn.Parameter(zeros.clone()), nn.Parameter(zeros.clone())
        self._mean, self._variance, self._first_mean, self._first_spread = zeros.clone(), ones.clone(), zeros, ones
        bias.move.requires_grad_(False)

    @staticmethod
    def fits(layer: Layer, weight: LearnedStep) -> bool:
        """Whether a layer can have one: a convolution whose weight has a step for each output channel."""
        return not layer.linear and not layer.transposed and weight.first.numel() == layer.outputs

    @property
    def learned(self) -> tuple[nn.Parameter, nn.Parameter]:
        """Its parameters."""
        return self.gain, self.shift

    @property
    def tensors(self) -> dict[str, Tensor]:
        """See the class."""
        return {
            "gain": self.gain,
            "shift": self.shift,
            "mean": self._mean,
            "variance": self._variance,
            "first mean": self._first_mean,
            "first spread": self._first_spread,
        }

    def _wanted(self) -> tuple[Tensor, Tensor]:
        """Spread and mean that outputs get, (channels,) each."""
        return self._first_spread * self.gain.exp(), self._first_mean + self._first_spread * self.shift

    def __call__(self, call: Call) -> Tensor:
        """Normalize what the convolution gives, by the statistics of the whole batch."""
        spread, mean = self._wanted()
        value: Tensor = call()
        if self.workers.count == 1:
            return functional.batch_norm(value, None, None, spread, mean, True, 0.0, EPSILON)
        value = value.float()
        across, shape = _across(value), (1, -1, *[1] * (value.dim() - 2))
        count = self.workers.total(torch.tensor(float(value.numel() // value.shape[1]), device=value.device))
        found = self.workers.total(value.sum(across)) / count
        value = value - found.reshape(shape)
        variance = self.workers.total(value.square().sum(across)) / count
        return value * (spread / (variance + EPSILON).sqrt()).reshape(shape) + mean.reshape(shape)

    @torch.no_grad()
    def know(self, mean: Tensor, variance: Tensor) -> None:
        """Take over statistics of what the convolution gives."""
        self._mean.copy_(mean)
        self._variance.copy_(variance)

    def begin(self) -> None:
        """Take the present statistics for those that outputs get."""
        self._first_mean.copy_(self._mean)
        self._first_spread.copy_((self._variance + EPSILON).sqrt())

    @torch.no_grad()
    def fold(self) -> None:
        """Put it into the weight's steps and the bias."""
        spread, mean = self._wanted()
        factors = spread / (self._variance + EPSILON).sqrt()
        self.weight.rescale(factors)
        self.bias.start.copy_((self.bias.value() - self._mean) * factors + mean)
        self.bias.move.zero_()
        self.bias.move.requires_grad_(True)


class Statistics:
    """Mean and variance of each channel of what a norm's convolution gives, of all batches together.

    Args:
        norm: whose.
        acting: whether the norm acts while they are taken.
    """

    def __init__(self, norm: LiveNorm, acting: bool) -> None:
        self._norm, self._acting = norm, acting
        self._count = torch.zeros((), dtype=torch.float64)
        self._sum, self._squares = (torch.zeros_like(norm.gain, dtype=torch.float64) for _ in range(2))

    def __call__(self, call: Call) -> Any:
        """Look at what the convolution gives."""
        value: Tensor = call()
        variance, mean = torch.var_mean(value.float(), _across(value), correction=0)
        count = value.numel() // value.shape[1]
        self._count += count
        self._sum += count * mean.double()
        self._squares += count * (variance.double() + mean.double().square())
        return self._norm(Call(call.node, lambda: value, (), {})) if self._acting else value

    def take(self) -> None:
        """Give the norm what was seen; nothing where that is nothing."""
        total = self._norm.workers.total
        count = total(self._count)
        if count:
            mean = total(self._sum) / count
            self._norm.know(mean, (total(self._squares) / count - mean.square()).clamp_min(0))


def _across(value: Tensor) -> list[int]:
    return [axis for axis in range(value.dim()) if axis != 1]
