"""A training as plain data: its curves, its figures, and what became of every site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bitwright.report import format as text
from bitwright.report.panels import figure_rows
from bitwright.report.pictures import Curve, curves
from bitwright.values import Measure, Verdict
from bitwright.values.trained import Trained

SHARE = Measure("", "", "share")


@dataclass(frozen=True)
class TrainedRow:
    """One site, as text: its name, width, step as a ratio to the one before, integers changed and oscillating."""

    name: str
    bits: str
    step: str
    changed: str
    oscillating: str


@dataclass(frozen=True)
class TrainedPanel:
    """The whole training.

    Attributes:
        sentence: what came out.
        headings, figures: name of each state of the network, and its figures with their intervals.
        curves: over the epochs.
        sites: in the policy's order.
        notes: what to keep in mind.
    """

    sentence: str
    headings: tuple[str, ...]
    figures: tuple[tuple[str, tuple[str, ...]], ...]
    curves: tuple[Curve, ...]
    sites: tuple[TrainedRow, ...]
    notes: tuple[str, ...]


def trained_panel(course: Trained, verdicts: Mapping[str, Verdict]) -> TrainedPanel:
    """What a page shows of a training; the last verdict is that of the trained network."""
    verdict = list(verdicts.values())[-1]
    least, middle, most = course.steps
    taken = f"epoch {course.best} is taken" if course.best else "the start is kept"
    primary = verdict.primary
    sentence = (
        f"{len(course.epochs)} epochs of {course.samples:,} samples in {text.duration(course.seconds)}, {taken}: "
        f"{primary.measure.label} {text.value(primary.measure, primary.value.value)}. Steps are {least:.2f} to "
        f"{most:.2f} times as large as before (median {middle:.2f})."
    )
    return TrainedPanel(
        sentence,
        *figure_rows(verdicts),
        _curves(course, verdict),
        tuple(
            TrainedRow(s.name, text.bits(s.bits), f"{s.step:.2f}", _percent(s.changed), _percent(s.oscillating))
            for s in course.sites
        ),
        course.notes,
    )


def _percent(share: float | None) -> str:
    return "" if share is None else text.percent(share)


def _curves(course: Trained, verdict: Verdict) -> tuple[Curve, ...]:
    distance, primary = (verdict.figures[name].measure for name in (verdict.distance_name, verdict.primary_name))
    rows = course.epochs
    columns: Sequence[tuple[str, Measure, Sequence[float | None]]] = (
        ("Loss", Measure("", ""), [row.loss for row in rows]),
        (f"{distance.label}, held out", distance, [course.start, *(row.distance for row in rows)]),
        (f"{primary.label}, held out", primary, [row.primary for row in rows]),
        ("Weights moved to another integer", SHARE, [row.moved for row in rows]),
        ("Weights that went back", SHARE, [row.oscillating for row in rows]),
        ("Learning rate, share of the largest", SHARE, [row.rate for row in rows]),
    )
    return curves(columns)
