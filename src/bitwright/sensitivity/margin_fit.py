"""Margin-FIT: the share of predictions that flip, from the gradients of the margin and the rounding errors."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from bitwright.errors import InvalidInput
from bitwright.sensitivity.evidence import Evidence
from bitwright.sensitivity.method import METHODS, Method, Scores
from bitwright.tasks import Task
from bitwright.values import MarginModel
from bitwright.values.table import FLIPS


def margins(task: Task, outputs: Any, targets: Any, count: int) -> Tensor:
    """(N,) margins of the task's decisions, e.g. differences of the two largest logits; targets do not matter.

    Raises:
        InvalidInput: the task does not make one decision for each sample.
    """
    found = task.margin(outputs)
    if found is None:
        raise InvalidInput(
            f"margin-fit needs one decision for each sample, which the task '{task.name}' does not make; use "
            "method='fit', or name another task (task=)"
        )
    return found


def margin_fit(evidence: Evidence) -> Scores:
    """As FIT with the margin m_n between the two largest logits instead of the loss.

    Each site adds a variance var[s, b] to the margins, of which sample n has the share r[n, s]; the table predicts the
    part of the predictions that flip, mean_n Phi(-m_n / sqrt(sum_s r[n, s] var[s, b])). With projected errors the
    variance is twice the second moment of the harmful half of the margin's change, and the shares are those of the
    squared changes of all widths together.
    """
    found = evidence.gradients("margin-fit")
    if found.products is None:
        variances, weights = found.squares.mean(0)[:, None] * evidence.noise, found.squares
    else:
        variances, weights = harmful(found.products, found.values), (found.products**2).sum(2)
    mean = weights.mean(0)
    shares = np.divide(weights, mean, out=np.ones_like(weights), where=mean > 0)
    model = MarginModel(found.values, variances, shares)
    harm, error = model.alone()
    notes, doubts = evidence.notes, found.doubts
    return Scores(harm, error, len(found.squares), model, found.parts, notes=notes, doubts=doubts)


def harmful(products: Any, margins: Any) -> Any:
    """(S, B) variances: twice the mean square, over the samples, of the part of each change that lowers the margin.

    A change that is proportional to the margin, with a factor below zero, is a rescaling of the logits and is
    taken off first; a change that raises the margin harms nothing.
    """
    slope = np.tensordot(margins, products, axes=1) / max(float(margins @ margins), 1e-300)
    change = products - np.minimum(slope, 0.0)[None] * margins[:, None, None]
    return (2.0 * np.minimum(np.maximum(products, change), 0.0) ** 2).mean(0)


METHODS.register(
    Method(
        name="margin-fit",
        order=20,
        called="Margin-FIT",
        does="The share of predictions that flip, from the margin's gradients and the rounding errors.",
        needs="one decision for each input; no targets",
        costs="two to three float passes",
        unit=FLIPS,
        score=margins,
        margin=True,
        instead="fit",
        beside=True,
        function=margin_fit,
    )
)
