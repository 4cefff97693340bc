"""How a quantized network behaves under shifts of its inputs, in figures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bitwright.values.json import Value
from bitwright.values.table import Packed, packed
from bitwright.values.verdict import Interval, Measure

SEVERITIES = (1, 2, 3, 4, 5)
"""Of a shift."""


@dataclass(frozen=True)
class Flip(Value):
    """A decision that changes.

    Attributes:
        before: what the float network decides, a class number.
        after: what the quantized one decides.
        count: samples.
    """

    before: int
    after: int
    count: int


@dataclass(frozen=True)
class Shifted(Value):
    """Float and quantized network on the same shifted inputs.

    Attributes:
        shift: its name; empty for the data as they are.
        severity: 1 to 5; 0 for the data as they are.
        samples: inputs.
        disagreements: inputs on which the two decide differently; None for tasks that decide nothing.
        rate: their share.
        distance: of the outputs to float's, as the task measures it.
        float_figure: the task's primary figure of the float network, where it is a mean over samples and there are
            targets.
        figure: of the quantized one.
        change: of the one against the other on the same inputs.
        lost: disagreements in which only the float network is right.
        gained: in which only the quantized one is right; accuracy hides both where they are equal.
        predicted: share of disagreements that Margin-FIT predicts, where its table was given.
        flips: the most frequent changes of decisions, for classes.
    """

    shift: str
    severity: int
    samples: int
    disagreements: int | None
    rate: Interval | None
    distance: Interval
    float_figure: float | None = None
    figure: float | None = None
    change: Interval | None = None
    lost: int | None = None
    gained: int | None = None
    predicted: float | None = None
    flips: tuple[Flip, ...] = ()


@dataclass(frozen=True)
class Example(Value):
    """An input on which the two networks disagree.

    Attributes:
        shift: name of its case; empty for the data as they are.
        severity: 1 to 5, or 0.
        sample: its number in the data, from 0.
        before: what the float network decides; None for tasks without classes.
        after: what the quantized one decides.
        distance: of its outputs to float's.
    """

    shift: str
    severity: int
    sample: int
    before: int | None
    after: int | None
    distance: float


@dataclass(frozen=True)
class Judged(Value):
    """How well a number tells inputs on which the two networks disagree from all others.

    By a logistic regression on half of the samples, measured on the other half.

    Attributes:
        name: of the number.
        auroc: area under the receiver operating characteristic.
        aupr: area under precision and recall.
        tnr: share of the agreements that are told where 95 % of the disagreements are.
        guess: AUPR of a guess: the share of disagreements.
    """

    name: str
    auroc: Interval
    aupr: Interval
    tnr: Interval
    guess: float


@dataclass(frozen=True)
class Guard(Value, kind="guard"):
    """A rule for use: inputs whose indicator is beyond a threshold go to the float network instead.

    The threshold is chosen on half of the inputs under some shifts; the figures are of the other half under the others.

    Attributes:
        task: what the network is for.
        indicator: name of the number.
        threshold: from which on an input is sent back.
        below: whether that is from there down, as for the margin, and not up.
        wanted: the share of disagreements that it was chosen to catch.
        caught: the share that it catches.
        sent_back: share of all inputs that go to the float network.
        float_figure: the primary figure of the float network on these inputs; None where it is not known.
        figure: of the quantized one alone.
        pair: of the two together under this rule.
        tuned_on: the shifts that the threshold was chosen under; "" for the data as they are.
        measured_on: the shifts that the figures are of.
    """

    task: str
    indicator: str
    threshold: float
    below: bool
    wanted: float
    caught: Interval
    sent_back: Interval
    float_figure: float | None = None
    figure: float | None = None
    pair: float | None = None
    tuned_on: tuple[str, ...] = ()
    measured_on: tuple[str, ...] = ()


@dataclass(frozen=True)
class Turned(Value):
    """Disagreements before and after a training, of the same inputs in the same cases.

    Attributes:
        name: whose inputs, or under which shift.
        samples: inputs, each counted in every case.
        before: disagreements before the training.
        after: disagreements after it.
        removed: those before that are none after.
        new: those after that were none before; all others are kept.
        rate_before: their share of the samples. All intervals come from drawing inputs anew, with all their shifts.
        rate_after: likewise.
        change: the share after minus that before.
        removed_share: of those before; None where there were none.
        new_share: of those after; None where there are none.
        figure_before: the quantized network's primary figure, where it is a mean over samples.
        figure_after: likewise.
        figure_change: the one after minus the one before.
    """

    name: str
    samples: int
    before: int
    after: int
    removed: int
    new: int
    rate_before: Interval
    rate_after: Interval
    change: Interval
    removed_share: Interval | None = None
    new_share: Interval | None = None
    figure_before: float | None = None
    figure_after: float | None = None
    figure_change: Interval | None = None

    @property
    def kept(self) -> int:
        """Disagreements before and after."""
        return self.before - self.removed


@dataclass(frozen=True)
class Retraining(Value, kind="retraining"):
    """What training with disagreements did to them.

    Attributes:
        added: disagreements that were added to the training data, in number of inputs, counted in every case.
        trained_on: the other samples.
        epochs: passes over both.
        same: the inputs of which they were taken.
        other: the other half of the inputs, under the same shifts.
        shifts: the other half, shift by shift; "" for the data as they are.
    """

    added: int
    trained_on: int
    epochs: int
    same: Turned
    other: Turned
    shifts: tuple[Turned, ...] = ()


@dataclass(frozen=True)
class Behavior(Value, kind="behavior"):
    """A policy under shifts.

    Attributes:
        policy_name: the policy.
        runtime: what ran the quantized network: a runtime with its version, or "simulation".
        task: what the network is for.
        primary: the figure that decides.
        distance: how outputs are compared with float's.
        clean: the data as they are.
        shifted: one entry for each shift and severity.
        indicators: the best one first; empty for tasks without probabilities.
        guard: None without indicators, or without disagreements.
        examples: some inputs on which the two disagree.
        tolerance: the distance from which on outputs disagree, for tasks that decide nothing; None where it was not
            given, or is not needed.
        notes: what was left out, and why.
        retraining: what training with the disagreements did to them, where it was asked for.
    """

    policy_name: str
    runtime: str
    task: str
    primary: Measure
    distance: Measure
    clean: Shifted
    shifted: tuple[Shifted, ...]
    indicators: tuple[Judged, ...] = ()
    guard: Guard | None = None
    examples: tuple[Example, ...] = ()
    tolerance: float | None = None
    notes: tuple[str, ...] = ()
    retraining: Retraining | None = None


@dataclass(frozen=True)
class Total(Value):
    """A quantized network on all shifted inputs together; on the data as they are, if there are no others.

    Intervals come from drawing inputs anew, each with all its shifts.

    Attributes:
        samples: inputs, each counted in every case.
        rate: share of disagreements; None for tasks that decide nothing.
        against: that share minus that of the first network, on the same inputs; None for the first itself.
        float_figure: the task's primary figure of the float network, where it is a mean over samples.
        figure: of the quantized one.
        figure_against: that figure minus that of the first network.
    """

    samples: int
    rate: Interval | None = None
    against: Interval | None = None
    float_figure: float | None = None
    figure: Interval | None = None
    figure_against: Interval | None = None


@dataclass(frozen=True)
class Behaviors(Value, kind="behaviors"):
    """Several quantized networks on the same inputs.

    Attributes:
        studies: name -> what was found of it.
        totals: name -> all shifts together, beside the first one.
    """

    studies: dict[str, Behavior]
    totals: dict[str, Total]


@dataclass(frozen=True)
class Apart(Value, kind="apart"):
    """Two quantized networks on the same inputs.

    Attributes:
        primary: the figure that decides.
        distance: how the outputs of the two are compared.
        case: what was found; ``float_figure`` is that of the first network here, ``figure`` that of the second,
            ``lost`` are decisions that only the first has right, ``gained`` those that only the second has.
        examples: inputs on which the two differ most; ``before`` is what the first decides.
    """

    primary: Measure
    distance: Measure
    case: Shifted
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class Seen(Value):
    """The two networks on the inputs of one case, sample by sample; arrays are (N,).

    Attributes:
        distances: of the outputs to float's.
        differs: 1 where they decide differently; None for tasks that decide nothing.
        ours: the quantized network's primary figure, where it is a mean over samples and there are targets.
        floats: the float network's.
        before: the float network's classes.
        after: the quantized network's classes.
        margins: the float network's margins.
        indicators: name -> of the quantized network's probabilities.
    """

    distances: Packed
    differs: Packed | None = None
    ours: Packed | None = None
    floats: Packed | None = None
    before: Packed | None = None
    after: Packed | None = None
    margins: Packed | None = None
    indicators: dict[str, Packed] = field(default_factory=dict)

    def _written(self) -> dict[str, Any]:
        found = {
            name: value if value is None else packed(value)
            for name, value in super()._written().items()
            if name != "indicators"
        }
        return {**found, "indicators": {name: packed(value) for name, value in self.indicators.items()}}

    @property
    def samples(self) -> int:
        """How many inputs there are."""
        return len(self.distances)
