"""Learned rounding of one layer: which weights go up and which go down, so that the layer's output stays what it was.

AdaRound (Nagel et al., ICML 2020), eqs. 21 to 25: w = s clamp(floor(w / s) + h(V), low, high) with the rectified
sigmoid h(V) = clamp(1.2 sigmoid(V) - 0.1, 0, 1), minimizing the squared error behind the activation function plus
lambda sum (1 - |2 h(V) - 1|^beta), beta going from 20 to 2, by Adam. Three things are done otherwise: mini-batches are
rows at random positions of all images; the bias is learned along (a new bias costs nothing on an integer runtime);
and the gradient of V is written out, which saves most of the time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Tail = Callable[[Tensor, list[Tensor]], Tensor]

STRETCH, OFFSET = 1.2, -0.1  # of the rectified sigmoid: zeta - gamma and gamma
_CHUNK = 8192  # rows whose outputs are held at once


@dataclass(frozen=True)
class Settings:
    """How rounding is learned.

    Attributes:
        iterations: steps of Adam.
        rows: rows in a mini-batch.
        learning_rate: of the rounding variables.
        regularizer: lambda, in units of the output error per weight under nearest rounding, so that it means the same
            whatever the scale of the outputs.
        warm_start: share of the iterations without the regularizer.
        beta: its exponent at the start and at the end.
        learn_bias: whether the bias is learned along.
        bias_rate: learning rate of the bias, in standard deviations of the output.
    """

    iterations: int = 1000
    rows: int = 1024
    learning_rate: float = 0.03
    regularizer: float = 100.0
    warm_start: float = 0.2
    beta: tuple[float, float] = (20.0, 2.0)
    learn_bias: bool = True
    bias_rate: float = 1e-3


@dataclass(frozen=True)
class Problem:
    """One layer as rows.

    Attributes:
        weight: (G, R, K) float weights.
        step: (G, R, K) their steps.
        low: smallest integer.
        high: largest integer.
        bias: (G x R,).
        inputs: (G, P, K) rows that enter the layer in the quantized network.
        outputs: (P, G x R) what the layer puts out in the float network.
        operands: for each addition in the tail (P, G x R) of the quantized network.
        targets: (P, G x R) what the float network has behind the tail.
        tail: what follows the layer, a function of outputs and operands.
    """

    weight: Tensor
    step: Tensor
    low: int
    high: int
    bias: Tensor
    inputs: Tensor
    outputs: Tensor
    operands: list[Tensor]
    targets: Tensor
    tail: Tail

    def nearest(self) -> Tensor:
        """The integers of rounding to nearest."""
        return (self.weight / self.step).round_().clamp_(self.low, self.high)

    def error(self, integers: Tensor, bias: Tensor, step: Tensor | None = None) -> float:
        """Mean over rows of the squared error behind the tail, summed over channels."""
        weight = (integers * (self.step if step is None else step)).transpose(1, 2)
        total, count = 0.0, len(self.targets)
        with torch.no_grad():
            for i in range(0, count, _CHUNK):
                part = slice(i, i + _CHUNK)
                output = torch.bmm(self.inputs[:, part], weight).transpose(0, 1).flatten(1) + bias
                behind = self.tail(output, [operand[part] for operand in self.operands])
                total += float((behind - self.targets[part]).square_().sum(dtype=torch.float64))
        return total / count


@dataclass(frozen=True)
class Rounding:
    """What was learned.

    Attributes:
        integers: (G, R, K).
        bias: (G x R,).
        error: behind the tail, as :meth:`Problem.error`.
        moved: share of the weights that aren't rounded to nearest.
        undecided: share of the rounding variables that had not settled at 0 or 1 when they were cut at one half.
    """

    integers: Tensor
    bias: Tensor
    error: float
    moved: float
    undecided: float


def learn_rounding(problem: Problem, settings: Settings) -> Rounding:
    """Learn the rounding of one layer; never worse than rounding to nearest on the rows that it was given."""
    floor, variables = start_of(problem.weight, problem.step)
    bias = problem.bias.clone()
    if settings.learn_bias:
        weight = problem.weight.transpose(1, 2)
        bias += problem.outputs.mean(0) - torch.bmm(problem.inputs.mean(1, keepdim=True), weight).flatten() - bias
    spread = problem.outputs.std(0, unbiased=False) * settings.bias_rate
    nearest = problem.nearest()
    before = problem.error(nearest, problem.bias)
    strength = settings.regularizer * before / nearest.numel()
    rounding = _Adam(variables, settings.learning_rate)
    shifting = _Adam(bias, spread)
    count = len(problem.targets)
    rows = min(settings.rows, count)
    batches = count // rows
    for i in range(settings.iterations):
        part = slice((i % batches) * rows, (i % batches + 1) * rows)
        sigmoid = variables.sigmoid()
        upward = sigmoid * STRETCH + OFFSET
        free = (upward > 0) & (upward < 1)
        upward.clamp_(0, 1)
        integers = floor + upward
        inside = (integers >= problem.low) & (integers <= problem.high)
        weight = integers.clamp_(problem.low, problem.high).mul_(problem.step)
        gradient, bias_gradient = _gradients(problem, part, weight, bias)
        gradient.mul_(problem.step).mul_(inside)
        gradient.add_(regularizer_gradient(upward, i, settings, strength))
        rounding.move(gradient.mul_(free).mul_(sigmoid).mul_(1 - sigmoid))  # the factor 1.2 is nothing to Adam
        if settings.learn_bias:
            shifting.move(bias_gradient)
    upward = (variables.sigmoid() * STRETCH + OFFSET).clamp_(0, 1)
    undecided = float(((upward > 0.01) & (upward < 0.99)).double().mean())
    found = (floor + (upward >= 0.5)).clamp_(problem.low, problem.high)
    error = problem.error(found, bias)
    if before <= error:
        return Rounding(nearest, problem.bias, before, 0.0, undecided)
    return Rounding(found, bias, error, float((found != nearest).double().mean()), undecided)


def start_of(weight: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """Integers below the weights, and variables V at which floor + h(V) is the weight itself."""
    floor = (weight / step).floor()
    share = ((weight / step - floor - OFFSET) / STRETCH).clamp_(1e-4, 1 - 1e-4)
    return floor, torch.log(share / (1 - share))


def regularizer_gradient(upward: Tensor, iteration: int, settings: Settings, strength: float) -> Tensor | float:
    """Gradient of lambda sum (1 - |2 h - 1|^beta) by h at an iteration (eq. 24, beta annealed linearly).

    ``strength`` is lambda: the settings' regularizer times the error that each weight has on average.
    """
    warm = settings.warm_start * settings.iterations
    if iteration < warm:
        return 0.0
    done = (iteration - warm) / (settings.iterations - warm)
    beta = settings.beta[0] + (settings.beta[1] - settings.beta[0]) * done
    distance = 2 * upward - 1
    return distance.abs().pow_(beta - 1).mul_(distance.sign_()).mul_(-2 * beta * strength)


def _gradients(problem: Problem, part: slice, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the mean squared error behind the tail by weight and bias, on a mini-batch."""
    inputs = problem.inputs[:, part]
    output = torch.bmm(inputs, weight.transpose(1, 2)).transpose(0, 1).flatten(1) + bias
    with torch.enable_grad():
        output.requires_grad_()
        behind = problem.tail(output, [operand[part] for operand in problem.operands])
        error = (behind - problem.targets[part]).square().sum() / len(output)
        (gradient,) = torch.autograd.grad(error, output)
    by_group = gradient.reshape(len(gradient), weight.shape[0], -1).permute(1, 2, 0)
    return torch.bmm(by_group, inputs), gradient.sum(0)


class _Adam:
    """Adam with its usual constants, in place, on one tensor; the rate can differ from element to element."""

    def __init__(self, values: Tensor, rate: float | Tensor) -> None:
        self.values = values
        self.rate = rate
        self.first = torch.zeros_like(values)
        self.second = torch.zeros_like(values)
        self.steps = 0

    def move(self, gradient: Tensor) -> None:
        self.steps += 1
        self.first.mul_(0.9).add_(gradient, alpha=0.1)
        self.second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        scale = (self.second / (1 - 0.999**self.steps)).sqrt_().add_(1e-8)
        if isinstance(self.rate, float):
            self.values.addcdiv_(self.first, scale, value=-self.rate / (1 - 0.9**self.steps))
        else:
            self.values.sub_(self.rate * self.first / scale / (1 - 0.9**self.steps))
