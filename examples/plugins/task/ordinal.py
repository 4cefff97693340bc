"""A task: classes that have an order, such as stars or grades, where the next class is nearly right."""

from __future__ import annotations

from typing import Any

from bitwright.tasks.base import Answer, Values
from bitwright.tasks.classification import Classification
from bitwright.tasks.outputs import per_sample
from bitwright.values import Measure


class Ordinal(Classification):
    """Decides by the share of samples whose prediction is at most ``slack`` classes off.

    Args:
        slack: classes that a prediction may be off.
        options: see :class:`~bitwright.tasks.classification.Classes`.
    """

    name, does, order = "ordinal", "one class of several that have an order, from logits (N, K)", 100
    measures = (
        Measure("near", "Near", "share"),
        Measure("off", "Classes off", larger=False),
        *Classification.measures,
    )
    primary = "near"

    def __init__(self, *data: Any, slack: int = 1, **options: Any) -> None:
        super().__init__(*data, **options)
        self.slack = slack

    def own(self, answer: Answer) -> Values:
        """What classification has, and how many classes predictions are off, averaged over the outputs."""
        values = super().own(answer)
        heads = [head for head in answer.read.values() if head.targets is not None]
        if heads:
            off = sum(per_sample((head.predicted - head.targets).abs()) for head in heads) / len(heads)
            values |= {"near": (off <= self.slack).double(), "off": off.double()}
        return values
