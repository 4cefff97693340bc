"""Settings of the main job: everything that a run can be told, beside its model, its data and its folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

DEFAULT_DROP = 0.5
"""Points of accuracy that a policy may lose where neither a budget nor a target is given."""


@dataclass(frozen=True)
class Settings:
    """How a run goes.

    Attributes:
        quantizer: where tensors are quantized: ``"edge"``, ``"edge-tensor"``, ``"x86"``, ``"xnnpack"``, or a PT2E
            ``Quantizer``.
        batch_size: samples that run at once.
        calibration_samples: samples of the calibration data that set the ranges.
        score_samples: how many of these the sensitivity scores are made of.
        holdout_samples: further samples of the calibration data, on which candidates are measured and ranked.
        ranges: ``"minmax"``, ``"percentile"`` or ``"mse"``.
        method: the sensitivity scores that the search minimises.
        bits: the widths that a site may get.
        budget: one candidate for each entry; limits in one entry, separated by commas, hold at once. The first
            entry's candidate is the one that is exported.
        target_drop: the cheapest policy that changes at most so many points of the predictions (without a budget).
        cost: the cost along the Pareto front, ``"bops"`` or ``"size"``.
        repairs: what may be done to a policy so that it holds ``target_drop``, each tried alone, in this order.
        pins: site or pattern -> the width that it has, or ``"float"``.
        points: budgets of the Pareto front.
        rounds: most searches with predictions that were corrected by measurements.
        runtime: what the model is exported for, or ``"none"``.
        seed: of everything drawn at random.
        loss: (outputs, targets) -> (N,) losses, for scores and figures; None for cross-entropy.
        metric: (outputs, targets) -> number over all samples at once, shown beside the other figures, as is the float
            model's. The debugging flow decides by it, larger being better and a point 0.01 of it. None for accuracy.
    """

    quantizer: Any = "edge"
    batch_size: int = 64
    calibration_samples: int = 512
    score_samples: int = 512
    holdout_samples: int = 512
    ranges: str = "mse"
    method: str = "margin-fit"
    bits: tuple[int, ...] = (2, 3, 4, 5, 6, 8)
    budget: tuple[str, ...] = ()
    target_drop: float | None = None
    repairs: tuple[str, ...] = ("gptq", "adaround")
    cost: str = "bops"
    pins: Mapping[str, int | str] = field(default_factory=dict)
    points: int = 20
    rounds: int = 4
    runtime: str = "onnxruntime"
    seed: int = 0
    loss: Callable[[Any, Any], Any] | None = None
    metric: Callable[[Any, Any], float] | None = None

    @property
    def drop(self) -> float:
        """The target in points that holds where no budget was given."""
        return DEFAULT_DROP if self.target_drop is None else self.target_drop
