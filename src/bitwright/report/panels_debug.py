"""The debugging flow as plain data: the chart with the path taken, and every step with its figures."""

from __future__ import annotations

from dataclasses import dataclass

from bitwright.report import format as text
from bitwright.report.panels_sweep import SiteRow, site_rows
from bitwright.report.panels_tensor import TensorPanel, tensor_panel
from bitwright.values.findings import Findings, Measurement, Step

TITLES = (
    "Float sanity",
    "Weights or activations?",
    "Mend the weights",
    "Mend the activations",
    "Layer by layer",
    "Look at the worst",
    "Fix quantizers",
    "The whole network",
)
"""Short names of the eight steps, for the chart."""


@dataclass(frozen=True)
class Box:
    """One box of the chart.

    Attributes:
        number: of the step.
        title: short.
        state: ``"not taken"``, ``"skipped"``, ``"failed"``, ``"taken"``, ``"mended"`` (it changed something) or
            ``"reached"`` (the target holds here).
        note: a few words under the title.
    """

    number: int
    title: str
    state: str
    note: str


@dataclass(frozen=True)
class MeasuredRow:
    """One row of a step's figures, as text."""

    label: str
    distance: str
    agreement: str
    kept: str
    note: str


@dataclass(frozen=True)
class StepPanel:
    """One step with its figures as text."""

    step: Step
    state: str
    cost: str
    distance: str
    rows: tuple[MeasuredRow, ...]
    headings: tuple[str, ...]
    harms: tuple[SiteRow, ...]
    tensors: tuple[TensorPanel, ...]
    verdict: str


@dataclass(frozen=True)
class DebugPanel:
    """The whole flow."""

    boxes: tuple[Box, ...]
    steps: tuple[StepPanel, ...]
    cost: str


def debug_panel(findings: Findings) -> DebugPanel:
    """What the page of a debugging flow shows."""
    taken = {step.number: step for step in findings.steps}
    boxes = tuple(_box(number, title, taken.get(number)) for number, title in enumerate(TITLES, start=1))
    passes = sum(step.passes for step in findings.steps)
    return DebugPanel(boxes, tuple(_step(step) for step in findings.steps), _cost(findings.seconds, passes))


def _state(step: Step) -> str:
    if step.status != "done":
        return step.status
    if step.outcome == "holds":
        return "reached"
    return "mended" if step.change else "taken"


def _box(number: int, title: str, step: Step | None) -> Box:
    if step is None:
        return Box(number, title, "not taken", "not needed")
    state = _state(step)
    notes = {
        "skipped": "not at fault",
        "failed": "the flow ends here",
        "reached": "the target holds",
        "mended": "changed something",
        "taken": "measured",
    }
    if number == 2 and step.at_fault:
        return Box(number, title, state, " and ".join(f"{kind}s" for kind in step.at_fault))
    if number == 5 and step.sweep is not None:
        return Box(number, title, state, step.sweep.rows[0].label)
    return Box(number, title, state, notes[state])


def _step(step: Step) -> StepPanel:
    verdict = ""
    if step.verdict is not None:
        first = step.verdict.primary
        told = [
            f"{first.measure.word} {text.interval(first.measure, first.value)}",
            f"{text.change(first)} against float",
        ]
        if (decided := step.verdict.decided) is not None:
            told.append(f"{decided.measure.word} {text.percent(decided.value.value)}")
        verdict = f"On the evaluation data: {', '.join(told)}."
    return StepPanel(
        step,
        _state(step),
        _cost(step.seconds, step.passes),
        text.heading(step.measure),
        tuple(measured_row(row) for row in step.measured) if step.sweep is None or step.number != 5 else (),
        tuple(text.heading(measure) for measure in step.sweep.shown()) if step.sweep is not None else (),
        site_rows(step.sweep) if step.sweep is not None else (),
        tuple(tensor_panel(view) for view in step.tensors),
        verdict,
    )


def measured_row(row: Measurement) -> MeasuredRow:
    """A row's figures as text, a dash where it has none."""
    return MeasuredRow(
        row.label,
        "–" if row.distance is None else text.significant(row.distance),
        "–" if row.agreement is None else text.percent(row.agreement),
        "–" if row.kept is None else ("kept" if row.kept else "not kept"),
        row.note,
    )


def _cost(seconds: float, passes: float) -> str:
    return f"{text.duration(seconds)}, as much as {passes:,.0f} float passes over the calibration data"
