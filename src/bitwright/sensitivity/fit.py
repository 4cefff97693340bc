"""FIT: the change of the loss, from its gradients at the sites and the rounding errors there."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from bitwright.sensitivity.evidence import Evidence, standard_error, white
from bitwright.sensitivity.method import METHODS, Method, Scores
from bitwright.tasks import Task


def losses(task: Task, outputs: Any, targets: Any, count: int) -> Tensor:
    """(N,) losses of the task, or what stands in for them where it has no targets."""
    return task.scores(outputs, targets, count)


def fit(evidence: Evidence) -> Scores:
    """FIT (Zandonati et al., ICLR 2023): harm[s, b] = Tr(F_s) E[d_{s,b}^2], with the empirical Fisher trace
    Tr(F_s) = (1/N) sum_n ||grad_{t_s} l_n||^2 of per-sample gradients; a policy's score is the sum.

    With projected errors the second moment of the change of the loss is estimated from its mean size,
    E[x^2] = (pi / 2) E[|x|]^2 for a normal x: on data that the network was trained on, a handful of samples carry
    nearly all of the loss, and a mean of squares would listen to them alone.
    """
    found = evidence.gradients("fit")
    if found.products is None:
        values = white(found.squares, evidence.noise)
        harm, error = values.mean(0), standard_error(values)
    else:
        sizes = np.abs(found.products)
        mean = sizes.mean(0)
        harm, error = np.pi / 2 * mean**2, np.pi * mean * standard_error(sizes)
    unit = f"FIT, {evidence.task.harm_of_losses}"
    return Scores(harm, error, len(found.squares), None, found.parts, unit, evidence.notes, found.doubts)


METHODS.register(
    Method(
        name="fit",
        order=10,
        called="FIT",
        does="The squared change of the loss, from its gradients and the rounding errors.",
        needs="targets, unless the task needs none",
        costs="two to three float passes",
        unit="FIT, squared change of the loss",
        score=losses,
        beside=True,
        function=fit,
    )
)
