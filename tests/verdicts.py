"""Verdicts made by hand, for tests of what is made of them."""

from __future__ import annotations

import numpy as np

from bitwright.tasks.classification import ACCURACY, AGREEMENT, KL, LOSS
from bitwright.tasks.intervals import Draws, Metered
from bitwright.values import Figure, Interval, Verdict


def classified(
    accuracy: float | Interval = 0.9,
    float_accuracy: float | Interval = 0.92,
    change: float | Interval = -0.02,
    loss: float | Interval = 0.3,
    float_loss: float | Interval = 0.2,
    kl: float | Interval = 0.1,
    agreement: float | Interval = 0.95,
    *,
    samples: int = 200,
    name: str = "",
    own: dict[str, tuple[float, float]] | None = None,
) -> Verdict:
    """A verdict of a classification made by hand; a plain number gets an interval of 0.01 to either side.

    ``own`` are further figures, name -> values of the quantized and of the float model.
    """

    def around(value: float | Interval) -> Interval:
        return value if isinstance(value, Interval) else Interval(value, value - 0.01, value + 0.01)

    worse = around(loss).value - around(float_loss).value
    figures = {
        "accuracy": Figure(ACCURACY, around(accuracy), around(float_accuracy), around(change)),
        "agreement": Figure(AGREEMENT, around(agreement)),
        "kl": Figure(KL, around(kl)),
        "loss": Figure(LOSS, around(loss), around(float_loss), around(worse)),
    }
    draws = Draws()
    for key, (value, exact) in (own or {}).items():
        figures[key] = draws.given(key, *(Metered(v, np.empty(0)) for v in (value, exact)))
    return Verdict("classification", samples, figures, "accuracy", "kl", "agreement", name, "agreement")
