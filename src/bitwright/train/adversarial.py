"""Training on inputs that were changed against the network (FGSM; PGD of Madry et al., ICLR 2018)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bitwright.errors import InvalidData, InvalidInput
from bitwright.train.strategy import Lesson, registered


@registered(
    name="adversarial",
    order=20,
    called="adversarial training",
    does="Trains on inputs that were moved, within a small radius, to where the network is worst.",
    needs="inputs of real numbers",
    changes="the inputs of each batch",
    costs="one more pass and its gradient for each step of the attack",
)
def adversarial(lesson: Lesson, inputs: tuple[Any, ...], targets: Any, radius: float = 0.1, steps: int = 1) -> Tensor:
    """The losses at inputs that were moved along the signs of their gradients.

    Args:
        lesson: the network's losses.
        inputs: of a batch; those of real numbers are moved.
        targets: of the batch.
        radius: the largest move of a value, in standard deviations of its input's values in the batch.
        steps: 1 is FGSM: one move of the whole radius. More are PGD: from a random place within the radius, moves of
            2.5 / steps of it, which never leave it.

    Returns:
        (N,) losses.

    Raises:
        InvalidInput: a radius or steps that cannot be used.
        InvalidData: no input of real numbers.
    """
    if not 0 < radius < float("inf"):
        raise InvalidInput(f"radius must be above 0, got {radius!r}")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise InvalidInput(f"steps must be a whole number of at least 1, got {steps!r}")
    real = [i for i, value in enumerate(inputs) if isinstance(value, Tensor) and value.is_floating_point()]
    if not real:
        raise InvalidData("adversarial training moves inputs of real numbers, and these batches have none")
    reach = {i: radius * inputs[i].std(correction=0) for i in real}
    moves = {i: torch.zeros_like(inputs[i]) for i in real}
    if steps > 1:
        moves = {i: reach[i] * (2 * torch.rand_like(inputs[i]) - 1) for i in real}
    for _ in range(steps):
        leaves = {i: (inputs[i] + moves[i]).requires_grad_() for i in real}
        loss = lesson(tuple(leaves.get(i, value) for i, value in enumerate(inputs)), (1.0, targets)).sum()
        gradients = torch.autograd.grad(loss, [leaves[i] for i in real])
        for i, gradient in zip(real, gradients, strict=True):
            step = reach[i] * (1.0 if steps == 1 else 2.5 / steps)
            moves[i] = torch.clamp(moves[i] + step * gradient.sign(), -reach[i], reach[i])
    moved = tuple(value + moves[i] if i in moves else value for i, value in enumerate(inputs))
    return lesson(moved, (1.0, targets))
