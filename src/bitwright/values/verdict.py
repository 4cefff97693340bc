"""Verdicts: what was measured of a policy, always with its uncertainty."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from bitwright.errors import InvalidInput
from bitwright.values.json import Value


@dataclass(frozen=True)
class Interval(Value):
    """A measured value with a confidence interval.

    Attributes:
        value: the point estimate.
        low: lower end.
        high: upper end.
        level: confidence level, e.g. 0.95.
        method: ``"wilson"``, ``"bootstrap"``, ``"paired bootstrap"``, or ``"none"`` where there is no interval.
    """

    value: float
    low: float
    high: float
    level: float = 0.95
    method: str = "wilson"

    def __format__(self, spec: str) -> str:
        return f"{self.value:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"

    def mapped(self, function: Callable[[float], float]) -> Interval:
        """The interval of a monotone function of the value."""
        low, high = sorted((function(self.low), function(self.high)))
        return Interval(function(self.value), low, high, self.level, self.method)


def within(heading: str) -> str:
    """A heading inside a sentence: without its capital, unless it may be a name (Bernoulli KL) or an abbreviation."""
    abbreviated = heading[1:2].isupper() or any(len(word) > 1 and word.isupper() for word in heading.split())
    return heading if abbreviated else heading[:1].lower() + heading[1:]


@dataclass(frozen=True)
class Measure(Value):
    """What a figure is called, its unit, and which way is better.

    Attributes:
        name: its key, and the word for it in sentences, e.g. ``"accuracy"``.
        label: its heading, e.g. ``"Top-1"``.
        unit: ``"share"`` for values from 0 to 1 that are shown in percent, their changes in points; otherwise e.g.
            ``"nats"``, or nothing.
        larger: whether larger is better.
        relative: whether what is lost counts in percent of the float model's value; otherwise in hundredths (points).
    """

    name: str
    label: str
    unit: str = ""
    larger: bool = True
    relative: bool = False

    @property
    def word(self) -> str:
        """The shortest word for it in sentences: ``"accuracy"``, ``"KL"``, ``"mean IoU"``."""
        if self.label.lower() == self.name.replace("-", " ").lower():
            return self.words
        return self.name.upper() if self.label.partition(" ")[0].isupper() else self.name

    @property
    def words(self) -> str:
        """The heading inside a sentence: ``"KL to float"``, ``"relative squared error"``."""
        return within(self.label)


@dataclass(frozen=True)
class Figure(Value):
    """One figure of a quantized model.

    Attributes:
        measure: what it is.
        value: of the quantized model.
        reference: of the float model; None for what compares the two.
        change: quantized minus float, on the same inputs (paired interval); None likewise.
    """

    measure: Measure
    value: Interval
    reference: Interval | None = None
    change: Interval | None = None

    @property
    def lost(self) -> Interval:
        """How much worse it is than float, negative where it is better.

        In points (hundredths), or in percent of the float model's value for a relative measure.

        Raises:
            InvalidInput: a figure without a change.
        """
        if self.change is None or self.reference is None:
            raise InvalidInput(f"{self.measure.name} compares the two models, so it has no change against float")
        base = abs(self.reference.value) if self.measure.relative else 1.0
        scale = (-100.0 if self.measure.larger else 100.0) / (base or math.ulp(0.0))
        return self.change.mapped(lambda change: scale * change if change else 0.0)


Outcome = Literal["holds", "undecided", "fails"]
"""Of a target: the whole interval is within it, reaches to both sides of it, or is beyond it."""
_ROUNDING = 1e-9


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


@dataclass(frozen=True)
class Verdict(Value, kind="verdict", version=2):
    """A policy measured against the float model on the same inputs: the figures of its task, by name.

    ``verdict.accuracy`` is the value of the figure "accuracy", ``verdict.float_accuracy`` the float model's,
    ``verdict.accuracy_change`` the difference; likewise for all other figures.

    Attributes:
        task: its name.
        samples: number of inputs.
        figures: name -> figure, in the order in which they are shown.
        primary_name: the figure that decides; it has a change against float.
        distance_name: the figure that says how far the outputs are from float's; candidates are ranked by it.
        bound_name: the figure, a share, whose distance from 1 bounds what the primary one can lose; empty where
            there is none. On data that a network was trained on, the primary one is saturated, and this one is not.
        policy_name: the policy measured.
        agreement_name: the figure that is the share of decisions equal to float's; empty where nothing is decided.
    """

    task: str
    samples: int
    figures: Mapping[str, Figure]
    primary_name: str
    distance_name: str
    bound_name: str = ""
    policy_name: str = ""
    agreement_name: str = ""

    def __post_init__(self) -> None:
        for name in (self.primary_name, self.distance_name, self.bound_name or self.primary_name):
            if name not in self.figures:
                raise InvalidInput(f"a verdict needs the figure '{name}' that it names, and has {list(self.figures)}")
        if self.primary.change is None or self.primary.reference is None:
            raise InvalidInput(f"the figure '{self.primary_name}', which decides, needs a change against float")

    @property
    def primary(self) -> Figure:
        """The figure that decides."""
        return self.figures[self.primary_name]

    @property
    def distance(self) -> Interval:
        """How far the outputs are from float's, 0 for the same outputs."""
        return self.figures[self.distance_name].value

    @property
    def lost(self) -> Interval:
        """How much worse the primary figure is than float's; see :attr:`Figure.lost`."""
        return self.primary.lost

    @property
    def decided(self) -> Figure | None:
        """The share of decisions equal to float's; None where the task makes none."""
        return self.figures.get(self.agreement_name)

    @property
    def may_lose(self) -> float:
        """As :attr:`lost`, on data that the network was trained on: at most what differs from float, in points."""
        if not self.bound_name:
            return self.lost.value
        return 100 * (1 - self.figures[self.bound_name].value.value)

    def __getattr__(self, name: str) -> Interval:
        figures = self.__dict__.get("figures", {})
        part = "value"
        if name not in figures and name.startswith("float_"):
            name, part = name.removeprefix("float_"), "reference"
        elif name not in figures and name.endswith("_change"):
            name, part = name.removesuffix("_change"), "change"
        found = getattr(figures.get(name), part, None)
        if found is None:
            raise AttributeError(f"the verdict has no '{name}'; its figures: {', '.join(figures)}")
        return found  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Closeness(Value):
    """How far the outputs of an exported file are from the simulation's, as values; of several outputs the farthest.

    Attributes:
        steps: largest difference in steps of the output's grid. An output that stays in float counts in steps of an
            8-bit grid: 255ths of the range of the simulated output.
        relative_error: length of the difference over the length of the simulated output, over all inputs.
        sqnr: the same as a signal-to-noise ratio in dB; None where there is no difference.
    """

    steps: float
    relative_error: float
    sqnr: float | None = None


@dataclass(frozen=True)
class Drift(Value):
    """The first site, in the order of execution, at which an exported file and the simulation differ.

    Attributes:
        site: its name.
        operation: that made the value.
        steps: largest difference in steps of the site.
        share: of the values there that differ, on a few inputs.
        middle: how near the simulation's unrounded values that differ are to the middle between two steps, in steps:
            the largest distance. There the last digit of a float decides which way a value is rounded.
    """

    site: str
    operation: str
    steps: float
    share: float
    middle: float | None = None


@dataclass(frozen=True)
class Parity(Value):
    """How an exported file behaves in its runtime, compared with the simulation on the same inputs.

    Attributes:
        runtime: e.g. ``"ONNX Runtime 1.31"``.
        samples: inputs compared.
        exact_difference: largest absolute difference of an output value with the runtime's graph optimisations off,
            in output steps (in the units of the output when it is not quantized: see ``step``); None, as everything
            else with the optimisations off, where the runtime has none to switch off.
        fused_difference: the same with optimisations on.
        step: size of one output step, or None when the output stays in float.
        agreement: what the task calls the share of equal decisions, e.g. agreement; None where it has no such share.
        exact_agreement: this share with the optimisations off.
        fused_agreement: this share with them on.
        figure: the task's primary figure of the file itself, with optimisations on; None without targets.
        distance: the task's distance of the file's outputs, with optimisations on, from the simulation's; None where
            the task is not known.
        exact: how close the output values are with the optimisations off; None where that was not measured.
        fused: the same with them on.
        exact_drift: where the two begin to differ with the optimisations off; None where they do not by more than a
            step or in a decision, or where every site agrees.
        fused_drift: the same with them on.
    """

    runtime: str
    samples: int
    exact_difference: float | None
    fused_difference: float
    step: float | None = None
    agreement: Measure | None = None
    exact_agreement: float | None = None
    fused_agreement: float | None = None
    figure: Figure | None = None
    distance: Figure | None = None
    exact: Closeness | None = None
    fused: Closeness | None = None
    exact_drift: Drift | None = None
    fused_drift: Drift | None = None


@dataclass(frozen=True)
class Latency(Value):
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
