"""FIT: the change of the loss, from its gradients at the sites and the rounding errors there."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch.nn.functional as functional
from torch import Tensor

from bitwright.errors import InvalidInput
from bitwright.graph.batches import check_target_shape, check_targets
from bitwright.sensitivity.evidence import Evidence, standard_error, white
from bitwright.sensitivity.method import METHODS, Loss, Method, Scores

OWN_LOSS = "FIT, squared change of the loss"


def per_sample_loss(outputs: Any, targets: Any, loss: Loss | None = None) -> Tensor:
    """(N,) losses; without a loss function cross-entropy, averaged over positions.

    Raises:
        InvalidData: targets that do not fit the outputs.
        InvalidInput: a loss function that does not give one number per sample.
    """
    if loss is None:
        if not isinstance(outputs, Tensor) or outputs.dim() < 2:
            raise InvalidInput("the default loss needs logits of shape (batch, classes, ...); pass loss=")
        check_target_shape(outputs, targets)
        check_targets(targets, outputs.shape[1])
        values = functional.cross_entropy(outputs, targets, reduction="none")
        return values.flatten(1).mean(1) if values.dim() > 1 else values
    values = loss(outputs, targets)
    count = len(outputs) if isinstance(outputs, Tensor) else None
    if values.dim() == 0 or (count is not None and values.shape[0] != count):
        raise InvalidInput(
            f"loss must return one number per sample, shape ({count},), got shape {tuple(values.shape)}; "
            "use reduction='none': the mean's gradient is another, wrong, number"
        )
    return values.flatten(1).mean(1) if values.dim() > 1 else values


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
    unit = OWN_LOSS if evidence.loss is not None else ""
    return Scores(harm, error, len(found.squares), None, found.parts, unit, evidence.notes)


METHODS.register(
    Method(
        name="fit",
        order=10,
        called="FIT",
        does="The squared change of the loss, from its gradients and the rounding errors.",
        needs="targets, or a loss that needs none",
        costs="two to three float passes",
        unit="FIT, squared change of the loss (nats^2)",
        score=per_sample_loss,
        function=fit,
    )
)
