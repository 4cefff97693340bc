"""Findings: what the debugging flow measured, concluded, changed and spent at each step, and its recommendation."""

from __future__ import annotations

from dataclasses import dataclass

from bitwright.errors import InvalidInput
from bitwright.values.json import Value
from bitwright.values.recipe import Recipe
from bitwright.values.sweep import Sweep
from bitwright.values.tensors import TensorView
from bitwright.values.verdict import Measure, Outcome, Verdict

DISTANCE = Measure("distance", "Distance to float", larger=False)


@dataclass(frozen=True)
class Measurement(Value):
    """One configuration that a step measured.

    Attributes:
        label: what was measured, e.g. ``"weights only"`` or ``"with cle"``.
        distance: mean distance to float on the calibration data; None where it was measured otherwise.
        agreement: share of decisions equal to float's on the calibration data; None where the task makes none.
        kept: whether the flow goes on with it; None where there was nothing to choose.
        note: what else was found, e.g. the repair's own report, or why it was refused.
    """

    label: str
    distance: float | None = None
    agreement: float | None = None
    kept: bool | None = None
    note: str = ""


@dataclass(frozen=True)
class Step(Value):
    """One step of the flow.

    Attributes:
        number: 1 to 8.
        title: what the step asks.
        status: ``"done"``, ``"skipped"`` (its condition did not hold) or ``"failed"`` (the flow cannot go on).
        measured: in the order of measuring.
        rule: the rule that the conclusion follows from, with its numbers.
        conclusion: in one or two sentences.
        change: what was changed; empty: nothing.
        recipe: as it is after the step.
        verdict: the evaluation data under the recipe after the step; None where nothing was changed since the last.
        outcome: whether the target holds after the step, by the ends of the interval; None where nothing was measured.
        at_fault: ``"weight"`` and ``"activation"``: the sides that are, as far as known.
        sweep: the per-layer analysis of this step.
        tensors: the tensors that it looked at.
        seconds: what it cost.
        passes: processor time, in float passes over the calibration data.
        measure: what the distances are.
        advice: what to do now, where the flow ends here without holding the target.
    """

    number: int
    title: str
    status: str
    measured: tuple[Measurement, ...]
    rule: str
    conclusion: str
    change: str
    recipe: Recipe
    verdict: Verdict | None = None
    outcome: Outcome | None = None
    at_fault: tuple[str, ...] = ()
    sweep: Sweep | None = None
    tensors: tuple[TensorView, ...] = ()
    seconds: float = 0.0
    passes: float = 0.0
    measure: Measure = DISTANCE
    advice: str = ""


@dataclass(frozen=True)
class Findings(Value, kind="findings", version=3):
    """The whole flow.

    Attributes:
        steps: in their order; the last one is where the flow stopped.
        target_drop: points of the primary figure that may be lost (percent of float's for relative ones).
        outcome: whether the recipe holds the target on the evaluation data, by the ends of the interval.
        recommendation: what to do now, in plain words; where the target does not hold, what stands in the way.
        notes: sentences that qualify the figures.
        graph_hash: the graph that was debugged.
    """

    steps: tuple[Step, ...]
    target_drop: float
    outcome: Outcome
    recommendation: str
    notes: tuple[str, ...] = ()
    graph_hash: str = ""

    @property
    def recipe(self) -> Recipe:
        """The policy, repairs and ranges that the flow ended with."""
        return self.steps[-1].recipe

    @property
    def verdict(self) -> Verdict | None:
        """The last measurement on the evaluation data."""
        return next((step.verdict for step in reversed(self.steps) if step.verdict), None)

    @property
    def seconds(self) -> float:
        """What all steps cost."""
        return sum(step.seconds for step in self.steps)

    def step(self, number: int) -> Step:
        """A step by its number.

        Raises:
            InvalidInput: the flow did not reach it.
        """
        for step in self.steps:
            if step.number == number:
                return step
        reached = ", ".join(str(step.number) for step in self.steps)
        raise InvalidInput(f"step must be one that the flow took ({reached}), got {number}")
