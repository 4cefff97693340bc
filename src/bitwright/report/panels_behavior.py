"""A quantized network beside the float one under shifts, as plain data for terminal and page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bitwright.report import format as text
from bitwright.values.behavior import Behavior, Example, Guard, Retraining, Shifted, Turned


@dataclass(frozen=True)
class ShiftRow:
    """One shift: the share of disagreements by severity, with its part of the largest for a shade.

    Attributes:
        name: of the shift.
        cells: (text, 0 to 1) for each severity; a dash where that was not measured.
    """

    name: str
    cells: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class BehaviorPanel:
    """The whole study.

    Attributes:
        sentences: what stands out, the guard last.
        notes: what was left out, and why.
        measured: the heading of what the grid shows.
        severities: headings of the grid's columns.
        grid: a row for each shift.
        headings: of the rows.
        rows: every case with its figures.
        judged: indicator, AUROC, AUPR with that of a guess, TNR.
        flips: the most frequent changes of classes over all cases: (from, to, how often).
        turned: what became of disagreements in a training: whose, then counts, shares and changes.
        turned_shifts: likewise shift by shift, of the inputs that were not trained on.
        examples: where, what was decided, and the address of a picture, a text or "".
    """

    sentences: tuple[str, ...]
    notes: tuple[str, ...]
    measured: str
    severities: tuple[str, ...]
    grid: tuple[ShiftRow, ...]
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    judged: tuple[tuple[str, str, str, str], ...]
    flips: tuple[tuple[int, int, int], ...]
    turned: tuple[tuple[str, ...], ...]
    turned_shifts: tuple[tuple[str, ...], ...]
    examples: tuple[tuple[str, str, str], ...]


def behavior_panel(found: Behavior, pictures: Sequence[str] = ()) -> BehaviorPanel:
    """The study as text; pictures are addresses of images or texts, one for each example or none at all."""
    cases = (found.clean, *found.shifted)
    severities = sorted({one.severity for one in found.shifted if one.severity})
    counted = found.clean.rate is not None
    values = {(one.shift, one.severity): one.rate.value if one.rate else one.distance.value for one in found.shifted}
    largest = max(values.values(), default=0.0) or 1.0
    columns = severities or [0]

    def cell(name: str, severity: int) -> tuple[str, float]:
        value = values.get((name, severity), values.get((name, 0)) if severity == columns[-1] else None)
        if value is None:
            return "–", 0.0
        return (text.percent(value) if counted else text.significant(value)), value / largest

    names = dict.fromkeys(one.shift for one in found.shifted)
    predicted = any(one.predicted is not None for one in cases)
    headings = [f"{found.primary.label}, float", "quantized", found.distance.label]
    if counted:
        headings = ["Disagree", *(["Predicted"] if predicted else []), *headings[:2], "Lost", "Gained", headings[2]]
    changes: dict[tuple[int, int], int] = {}
    for one in cases:
        for flip in one.flips:
            changes[flip.before, flip.after] = changes.get((flip.before, flip.after), 0) + flip.count
    most = sorted(changes.items(), key=lambda item: -item[1])[:10]
    shown = list(pictures) or [""] * len(found.examples)
    again = found.retraining
    return BehaviorPanel(
        (
            *_sentences(found),
            *([guard_sentence(found, found.guard)] if found.guard else []),
            *([retraining_sentence(again)] if again else []),
        ),
        found.notes,
        "Inputs on which the two decide differently" if counted else text.heading(found.distance),
        tuple(str(severity) for severity in severities) or ("",),
        tuple(ShiftRow(name, tuple(cell(name, severity) for severity in columns)) for name in names),
        tuple(headings),
        tuple((case_name(one), *_figures(found, one, counted, predicted)) for one in cases),
        tuple(
            (
                each.name,
                text.percent_interval(each.auroc),
                f"{text.percent_interval(each.aupr)} ({text.percent(each.guess)})",
                text.percent_interval(each.tnr),
            )
            for each in found.indicators
        ),
        tuple((before, after, count) for (before, after), count in most),
        tuple(_turned(found, one) for one in (again.same, again.other)) if again else (),
        tuple(_turned(found, one) for one in again.shifts) if again else (),
        tuple((case_name(one), decided(one), picture) for one, picture in zip(found.examples, shown, strict=True)),
    )


def case_name(one: Shifted | Example) -> str:
    """``"fog 3"``, ``"as they are"``."""
    if not one.shift:
        return "as they are"
    return f"{one.shift} {one.severity}" if one.severity else one.shift


def decided(one: Example, before: str = "float", after: str = "quantized") -> str:
    """``"float 3, quantized 8"``."""
    if one.before is None:
        return f"distance {text.significant(one.distance)}"
    return f"{before} {one.before}, {after} {one.after}"


def _figures(found: Behavior, one: Shifted, counted: bool, predicted: bool) -> list[str]:
    shown = ["–" if v is None else text.value(found.primary, v) for v in (one.float_figure, one.figure)]
    distance = text.number_interval(one.distance)
    if not counted:
        return [*shown, distance]
    rate = "–" if one.rate is None else text.percent_interval(one.rate)
    guess = ["–" if one.predicted is None else text.percent(one.predicted)] if predicted else []
    harm = ["–" if v is None else f"{v:,}" for v in (one.lost, one.gained)]
    return [rate, *guess, *shown, *harm, distance]


def turned_headings(found: Behavior) -> tuple[str, ...]:
    """Of what became of disagreements in a training."""
    unit = ", points" if found.primary.unit == "share" else ""
    counts = ("Before", "After", "Removed", "Kept", "New")
    return ("Inputs", *counts, "Change, points", f"{found.primary.label}{unit}")


def _turned(found: Behavior, one: Turned) -> tuple[str, ...]:
    counts = (f"{count:,}" for count in (one.before, one.after, one.removed, one.kept, one.new))
    change, shares = one.figure_change, found.primary.unit == "share"
    figure = "–" if change is None else text.points_interval(change, False) if shares else text.number_interval(change)
    return (one.name or "as they are", *counts, text.points_interval(one.change, unit=False), figure)


def retraining_sentence(again: Retraining) -> str:
    """What the training did to disagreements on inputs that it had not seen."""
    one = again.other
    gone = f", of which {text.percent_interval(one.removed_share)} are gone" if one.removed_share else ""
    new = f"; {text.percent_interval(one.new_share)} of these are new" if one.new_share else ""
    return (
        f"Retraining: {again.epochs} epochs on {again.trained_on:,} samples and {again.added:,} disagreements. On "
        f"inputs that were not trained on, there were {one.before:,} disagreements{gone}, and there are {one.after:,} "
        f"now{new}. Their share changes by {text.points_interval(one.change)}."
    )


def _sentences(found: Behavior) -> list[str]:
    """How many disagreements there are, and where most."""
    rated = [one for one in found.shifted if one.rate is not None]
    if found.clean.rate is None:
        return []
    if not rated:
        return [f"The two decide differently on {text.percent(found.clean.rate.value)} of the inputs."]
    worst = max(rated, key=lambda one: one.rate.value if one.rate else 0.0)
    assert worst.rate is not None
    lines = [
        f"The two decide differently on {text.percent(found.clean.rate.value)} of the inputs as they are, and on "
        f"{text.percent(worst.rate.value)} under {case_name(worst)}."
    ]
    if worst.lost is not None and worst.gained is not None and worst.figure is not None:
        lines.append(
            f"Of these, {worst.lost:,} lose a right decision and {worst.gained:,} gain one, so {found.primary.words} "
            f"shows a change of only {abs(worst.gained - worst.lost):,} of {worst.samples:,}."
        )
    return lines


def guard_sentence(found: Behavior, guard: Guard) -> str:
    """The rule, and what it does."""
    edge = f"at {'most' if guard.below else 'least'} {text.significant(guard.threshold)}"
    said = (
        f"Guard: where the {guard.indicator} is {edge}, the input goes to the float network. That catches "
        f"{text.percent(guard.caught.value)} of the disagreements (asked for: {text.percent(guard.wanted)}) and "
        f"sends {text.percent(guard.sent_back.value)} of the inputs"
    )
    apart = not set(guard.tuned_on) & set(guard.measured_on)
    many = len(guard.measured_on)
    said += f", under {many} shift{'s' * (many > 1)} that it was not chosen under." if apart else "."
    if guard.pair is not None and guard.figure is not None and guard.float_figure is not None:
        shown = (text.value(found.primary, v) for v in (guard.pair, guard.figure, guard.float_figure))
        said += " {}: {} together, {} alone, {} in float.".format(found.primary.label, *shown)
    return said
