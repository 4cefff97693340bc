"""Training between samples (Mixup; Zhang et al., ICLR 2018)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bitwright.errors import InvalidData, InvalidInput
from bitwright.train.feed import picked
from bitwright.train.strategy import Lesson, registered


@registered(
    name="mixup",
    order=30,
    called="Mixup",
    does="Trains on pairs of samples mixed into one, each target counting by its share.",
    needs="inputs of real numbers",
    changes="the inputs of each batch",
    costs="one pass and its gradient",
)
def mixup(lesson: Lesson, inputs: tuple[Any, ...], targets: Any, alpha: float = 0.2) -> Tensor:
    """The losses at mixtures of each sample with another one of the batch.

    Args:
        lesson: the network's losses.
        inputs: of a batch, all of real numbers.
        targets: of the batch, or None.
        alpha: the share of a sample is drawn from Beta(alpha, alpha), once for the batch; the larger, the more even.

    Returns:
        (N,) losses.

    Raises:
        InvalidInput: an alpha that cannot be used.
        InvalidData: inputs that are not real numbers.
    """
    if not 0 < alpha < float("inf"):
        raise InvalidInput(f"alpha must be above 0, got {alpha!r}")
    if not all(isinstance(value, Tensor) and value.is_floating_point() for value in inputs):
        raise InvalidData("Mixup mixes inputs of real numbers, and these batches have others")
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    order = torch.randperm(len(inputs[0])).to(inputs[0].device)
    mixed = tuple(share * value + (1 - share) * value[order] for value in inputs)
    return lesson(mixed, (share, targets), (1 - share, picked(targets, order)))
