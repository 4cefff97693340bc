"""A strategy: inputs with noise, as from a sensor that is never quite still."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bitwright.train import Lesson, Strategy


def train_with_noise(lesson: Lesson, inputs: tuple[Any, ...], targets: Any, share: float = 0.1) -> Tensor:
    """The losses at inputs with normal noise.

    Args:
        lesson: the network's losses.
        inputs: of a batch; those of real numbers get noise.
        targets: of the batch, or None.
        share: standard deviation of the noise, as a share of that of the input's values.
    """
    if share < 0:
        raise ValueError(f"share must be 0 or more, got {share}")
    noisy = [x + share * x.std() * torch.randn_like(x) if x.is_floating_point() else x for x in inputs]
    return lesson(tuple(noisy), (1.0, targets))


NOISY = Strategy(
    name="noisy",
    does="Trains on inputs with noise.",
    changes="the inputs of each batch",
    costs="one pass and its gradient",
    function=train_with_noise,
)
