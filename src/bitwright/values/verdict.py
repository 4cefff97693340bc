"""Verdicts: what was measured of a policy, always with its uncertainty."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Interval:
    """A measured value with a confidence interval.

    Attributes:
        value: the point estimate.
        low: lower end.
        high: upper end.
        level: confidence level, e.g. 0.95.
        method: ``"wilson"`` or ``"paired bootstrap"`` or ``"bootstrap"``.
    """

    value: float
    low: float
    high: float
    level: float = 0.95
    method: str = "wilson"

    def __format__(self, spec: str) -> str:
        return f"{self.value:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return dict(self.__dict__)


Outcome = Literal["holds", "undecided", "fails"]
"""Of a target: the whole interval is within it, reaches to both sides of it, or is beyond it."""
_ROUNDING = 1e-9


def points_lost(change: Interval) -> Interval:
    """What a change of a share (quantized minus float) loses, in hundredths: positive where the share fell."""
    return Interval(-100 * change.value, -100 * change.high, -100 * change.low, change.level, change.method)


def outcome_of(lost: Interval, target: float) -> Outcome:
    """Whether at most ``target`` points are lost, by the ends of the interval."""
    if lost.high <= target + _ROUNDING:
        return "holds"
    return "fails" if lost.low > target + _ROUNDING else "undecided"


def samples_to_decide(lost: Interval, target: float, samples: int) -> int | None:
    """How many samples would likely decide whether a target holds, to two digits; None where that cannot be said.

    The interval shrinks around its value as one over the square root of the number of samples, until the end that
    lies on the other side of the target reaches it.
    """
    reach = lost.high - lost.value if lost.value <= target else lost.value - lost.low
    margin = abs(target - lost.value)
    if outcome_of(lost, target) != "undecided" or margin <= _ROUNDING:
        return None
    needed = round(samples * (reach / margin) * (reach / margin))
    unit: int = 10 ** max(0, len(str(needed)) - 2)
    return -(-needed // unit) * unit if needed > samples else None


def _plain(verdict: Any) -> dict[str, Any]:
    """The fields of a verdict, intervals and mappings as dictionaries."""
    return {
        k: v.to_dict() if isinstance(v, Interval) else (dict(v) if isinstance(v, Mapping) else v)
        for k, v in verdict.__dict__.items()
    }


@dataclass(frozen=True)
class Verdict:
    """A policy measured against the float model on the same inputs.

    Attributes:
        samples: number of inputs.
        accuracy: share of correct predictions of the quantized model, 0 to 1 (Wilson interval).
        float_accuracy: the same of the float model.
        accuracy_change: quantized minus float accuracy (paired bootstrap interval).
        loss: mean loss of the quantized model (bootstrap interval).
        float_loss: mean loss of the float model.
        kl: mean Kullback-Leibler divergence from the float to the quantized probabilities, in nats.
        agreement: share of inputs on which both models predict the same class (Wilson interval).
        policy_name: the policy measured.
        metrics: the user's own metrics, name -> value.
    """

    samples: int
    accuracy: Interval
    float_accuracy: Interval
    accuracy_change: Interval
    loss: Interval
    float_loss: Interval
    kl: Interval
    agreement: Interval
    policy_name: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def flips(self) -> float:
        """Predictions that differ from float's, in percent: accuracy can fall by no more points than that."""
        return 100 * (1 - self.agreement.value)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return _plain(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Verdict:
        """Inverse of :meth:`to_dict`."""
        names = ("accuracy", "float_accuracy", "accuracy_change", "loss", "float_loss", "kl", "agreement")
        fields: dict[str, Any] = {k: Interval(**v) if k in names else v for k, v in data.items()}
        return cls(**fields)


@dataclass(frozen=True)
class RegressionVerdict:
    """A policy of a network without classes, measured against the float model on the same inputs.

    Attributes:
        samples: number of inputs.
        sqnr: of the quantized against the float outputs, in dB: 10 log10(sum |z - mean z|^2 / sum |z' - z|^2), the
            mean over the inputs; infinite when no output changed (bootstrap interval).
        loss: mean loss of the quantized model (bootstrap interval).
        float_loss: mean loss of the float model.
        loss_change: quantized minus float loss (paired bootstrap interval).
        policy_name: the policy measured.
        metrics: the user's own metrics, name -> value.
    """

    samples: int
    sqnr: Interval
    loss: Interval
    float_loss: Interval
    loss_change: Interval
    policy_name: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; decibels that are infinite are None there."""
        found = _plain(self)
        for end in ("value", "low", "high"):
            if not math.isfinite(found["sqnr"][end]):
                found["sqnr"][end] = None
        return found

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> RegressionVerdict:
        """Inverse of :meth:`to_dict`."""
        decibels: dict[str, Any] = {k: math.inf if v is None else v for k, v in data["sqnr"].items()}
        others = {name: Interval(**data[name]) for name in ("loss", "float_loss", "loss_change")}
        return cls(**{**data, **others, "sqnr": Interval(**decibels)})


@dataclass(frozen=True)
class Parity:
    """How an exported file behaves in its runtime, compared with the simulation on the same inputs.

    Attributes:
        runtime: e.g. ``"ONNX Runtime 1.31"``.
        samples: inputs compared.
        exact_agreement: share of equal top-1 with the runtime's graph optimisations off; None for regression.
        fused_agreement: share of equal top-1 with them on; None for regression.
        exact_logit_difference: largest absolute difference of an output, optimisations off, in output steps
            (in logits, or whatever the outputs are, when the output is not quantized: see ``step``).
        fused_logit_difference: the same with optimisations on.
        step: size of one output step in logits, or None when the output stays in float.
        accuracy: of the file in the runtime with optimisations on.
        predictions: classes compared: one for each input, or one for each position of each input; 0 for regression.
        accuracy_interval: of ``accuracy``: Wilson's for one prediction an input, else a bootstrap over the inputs;
            None for fewer than 2 inputs.
    """

    runtime: str
    samples: int
    exact_agreement: float | None
    fused_agreement: float | None
    exact_logit_difference: float
    fused_logit_difference: float
    step: float | None = None
    accuracy: float | None = None
    predictions: int | None = None
    accuracy_interval: Interval | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        interval = self.accuracy_interval
        return {**self.__dict__, "accuracy_interval": interval.to_dict() if interval else None}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Parity:
        """Inverse of :meth:`to_dict`."""
        interval = data.get("accuracy_interval")
        return cls(**{**data, "accuracy_interval": Interval(**interval) if interval else None})


@dataclass(frozen=True)
class Latency:
    """Time of the exported file against the float model in the same runtime, session options and run.

    Attributes:
        batch: batch size.
        seconds: median time of one run of the quantized file.
        float_seconds: median time of one run of the float file.
        unfused: operations that the runtime did not run in integers.
    """

    batch: int
    seconds: float
    float_seconds: float
    unfused: tuple[str, ...] = ()

    @property
    def ratio(self) -> float:
        """Quantized over float, of the two medians; above 1 it is slower than float."""
        return self.seconds / self.float_seconds

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**self.__dict__, "unfused": list(self.unfused)}
