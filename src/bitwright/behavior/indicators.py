"""Numbers that tell from the quantized network's output whether the float network would decide otherwise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bitwright.behavior.inputs import Inputs, between, half
from bitwright.errors import MissingExtra
from bitwright.registry import Descriptor, Registry
from bitwright.values.behavior import Guard, Judged

Array = npt.NDArray[np.float64]
LEAST = 5
"""Disagreements, and agreements, that each half must have for an indicator to be measured."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Indicator(Descriptor):
    """A function ``(probabilities) -> values``: (N, K) of the quantized network's classes, float64, to (N,).

    Attributes:
        small: whether a small value, not a large one, makes a disagreement likely.
    """

    function: Callable[[Tensor], Tensor]
    given: tuple[str, ...] = ("probabilities",)
    small: bool = False

    def risk(self, values: Array) -> Array:
        """Values with the sign that makes them larger where a disagreement is likelier."""
        return -values if self.small else values


INDICATORS: Registry[Indicator] = Registry("indicator", "bitwright.behavior")
"""Every indicator by name."""


def _registered(**about: Any) -> Callable[[Callable[[Tensor], Tensor]], Indicator]:
    return lambda function: INDICATORS.register(Indicator(function=function, **about))


@_registered(name="margin", order=10, small=True, does="Largest minus second largest probability (Hu et al. 2022).")
def margin(probabilities: Tensor) -> Tensor:
    """(N,) p1 - p2."""
    top = probabilities.topk(2, dim=1).values
    return top[:, 0] - top[:, 1]


@_registered(name="logit margin", order=11, small=True, does="Largest minus second largest logit, log p1 / p2.")
def logit_margin(probabilities: Tensor) -> Tensor:
    """(N,) log p1 - log p2, in nats; what quantization noise is added to."""
    top = probabilities.topk(2, dim=1).values.clamp_min(torch.finfo(probabilities.dtype).tiny).log()
    return top[:, 0] - top[:, 1]


@_registered(name="entropy", order=20, does="-sum p log p, in nats.")
def entropy(probabilities: Tensor) -> Tensor:
    """(N,) -sum p log p, in nats."""
    found: Tensor = torch.special.entr(probabilities).sum(1)
    return found


@_registered(name="gini", order=30, does="Gini impurity, 1 - sum p^2.")
def gini(probabilities: Tensor) -> Tensor:
    """(N,) 1 - sum p^2."""
    return 1 - probabilities.square().sum(1)


@_registered(name="least confidence", order=40, does="1 minus the largest probability.")
def least_confidence(probabilities: Tensor) -> Tensor:
    """(N,) 1 - the largest probability."""
    return 1 - probabilities.amax(1)


def judged(
    name: str,
    values: Array,
    differs: npt.NDArray[np.bool_],
    inputs: npt.NDArray[np.int64],
    seed: int,
    resamples: int = 200,
) -> Judged:
    """How well an indicator tells disagreements.

    Args:
        name: of the indicator.
        values: (N,) of it.
        differs: (N,) whether the decisions differ.
        inputs: (N,) number of the input that a sample is a shift of; the bootstrap draws these, with all their shifts.
        seed: of the halves and of the bootstrap.
        resamples: bootstrap draws.

    Raises:
        MissingExtra: scikit-learn is not installed.
    """
    linear = _linear_models()
    fit = half(inputs, seed)
    spread = float(values[fit].std()) or 1.0
    model = linear.LogisticRegression(class_weight="balanced").fit(values[fit, None] / spread, differs[fit])
    scores, truth = model.predict_proba(values[~fit, None] / spread)[:, 1], differs[~fit]

    areas = Areas(scores, truth)
    drawn = Inputs(inputs[~fit], seed, resamples).weights()
    draws = np.array([areas(weights) for weights in drawn if weights[truth].any() and weights[~truth].any()])
    whole = areas(np.ones(len(truth)))
    auroc, aupr, tnr = (between(value, column) for value, column in zip(whole, draws.T, strict=True))
    return Judged(name, auroc, aupr, tnr, float(truth.mean()))


class Areas:
    """AUROC, AUPR and the TNR at 95 % TPR of scores, for weights of the samples; sorted once for all of them.

    The same as scikit-learn's ``roc_auc_score`` and ``average_precision_score``, at a fiftieth of their time.
    """

    def __init__(self, scores: Array, truth: npt.NDArray[np.bool_]) -> None:
        self._order = np.argsort(-scores, kind="stable")
        ordered = scores[self._order]
        self._ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))  # the last one of equal scores
        self._truth = truth[self._order]

    def __call__(self, weights: Array) -> tuple[float, float, float]:
        """AUROC, AUPR, TNR; of the weights some must be above 0 on either side."""
        ordered = weights[self._order]
        positive = np.cumsum(ordered * self._truth)[self._ends]
        negative = np.cumsum(ordered * ~self._truth)[self._ends]
        found, missed = positive / positive[-1], negative / negative[-1]
        gained = np.diff(found, prepend=0.0)
        auroc = float((np.diff(missed, prepend=0.0) * (found - gained / 2)).sum())
        aupr = float((gained * positive / np.maximum(positive + negative, 1e-300)).sum())
        return auroc, aupr, 1 - float(missed[int(np.searchsorted(found, 0.95 - 1e-12))])


def guard(
    task: str,
    name: str,
    values: Array,
    differs: npt.NDArray[np.bool_],
    inputs: npt.NDArray[np.int64],
    tuned: npt.NDArray[np.bool_],
    test: npt.NDArray[np.bool_],
    right: Array | None,
    float_right: Array | None,
    wanted: float,
    seed: int,
) -> Guard:
    """The threshold that catches a share of the disagreements of some samples, and what it does on others.

    Args:
        task: what the network is for.
        name: of the indicator.
        values: (N,) of it.
        differs: (N,) whether the decisions differ.
        inputs: (N,) number of the input that a sample is a shift of; the bootstrap draws these, with all their shifts.
        tuned: (N,) samples to choose the threshold on.
        test: (N,) samples to measure it on.
        right: (N,) the quantized network's primary figure of each sample; None where it is not known.
        float_right: likewise the float network's.
        wanted: share to be caught, above 0, at most 1.
        seed: of the bootstrap.
    """
    small = INDICATORS[name].small
    risks = INDICATORS[name].risk(values)
    risky = np.sort(risks[tuned & differs])[::-1]
    edge = float(risky[int(np.ceil(wanted * len(risky))) - 1])
    sent, differ = risks[test] >= edge, differs[test]
    drawn = Inputs(inputs[test], seed)
    caught, sent_back = drawn.share(sent & differ, differ), drawn.share(sent)
    found = Guard(task, name, -edge if small else edge, small, wanted, caught, sent_back)
    if right is None or float_right is None:
        return found
    ours, exact = right[test], float_right[test]
    pair = float(np.where(sent, exact, ours).mean())
    return replace(found, float_figure=float(exact.mean()), figure=float(ours.mean()), pair=pair)


def _linear_models() -> Any:
    try:
        from sklearn import linear_model
    except ImportError:
        raise MissingExtra("scikit-learn", "behavior", "to judge indicators") from None
    return linear_model
