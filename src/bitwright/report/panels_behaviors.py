"""Several quantized networks on the same inputs, as plain data for terminal and page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bitwright.report import format as text
from bitwright.report.panels_behavior import ShiftRow, case_name, decided, guard_sentence
from bitwright.values.behavior import Behavior, Behaviors, Total
from bitwright.values.verdict import Interval, Measure


@dataclass(frozen=True)
class BehaviorsPanel:
    """Networks side by side.

    Attributes:
        sentences: which network differs least from float, and which most.
        headings: of the rows.
        rows: a network with its figures.
        names: of the networks.
        grid: a row for each case, a cell for each network.
        judged: the indicators' AUROC, a row for each indicator.
        guards: of each network, in words.
        notes: what was left out, and why.
        examples: network, then (where, what was decided, the address of a picture, a text or "").
    """

    sentences: tuple[str, ...]
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    names: tuple[str, ...]
    grid: tuple[ShiftRow, ...]
    judged: tuple[tuple[str, ...], ...]
    guards: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    examples: tuple[tuple[str, tuple[tuple[str, str, str], ...]], ...]


def behaviors_panel(found: Behaviors, shown: Mapping[str, Sequence[str]] | None = None) -> BehaviorsPanel:
    """The networks as text; shown are pictures or texts, one for each example of a network or none at all."""
    studies, names = found.studies, tuple(found.studies)
    first = studies[names[0]]
    counted, shares = first.clean.rate is not None, first.primary.unit == "share"
    what = "Disagreements" if counted else first.distance.label
    together = "under shifts" if first.shifted else "in all"
    headings = [f"{what}, as they are"]
    if counted:
        headings += [together, f"than {names[0]}, points"]
    headings += [f"{first.primary.label}, float", "quantized", f"than {names[0]}{', points' * shares}"]
    seen = {
        name: {
            case_name(one): one.rate.value if one.rate else one.distance.value for one in (each.clean, *each.shifted)
        }
        for name, each in studies.items()
    }
    largest = max((value for each in seen.values() for value in each.values()), default=0.0) or 1.0

    def cell(value: float | None) -> tuple[str, float]:
        if value is None:
            return "–", 0.0
        return (text.percent(value) if counted else text.significant(value)), value / largest

    indicators = dict.fromkeys(each.name for one in studies.values() for each in one.indicators)
    areas = {
        name: {each.name: text.percent_interval(each.auroc) for each in one.indicators} for name, one in studies.items()
    }
    examples = [
        (name, tuple((case_name(e), decided(e), each) for e, each in zip(one.examples, pictures, strict=True)))
        for name, one in studies.items()
        if (pictures := list((shown or {}).get(name, ())) or [""] * len(one.examples))
    ]
    return BehaviorsPanel(
        _sentences(found),
        tuple(headings),
        tuple((name, *_figures(one, found.totals[name], counted, first.primary)) for name, one in studies.items()),
        names,
        tuple(
            ShiftRow(case_name(one), tuple(cell(seen[name].get(case_name(one))) for name in names))
            for one in (first.clean, *first.shifted)
        ),
        tuple((each, *(areas[name].get(each, "–") for name in names)) for each in indicators),
        tuple((name, guard_sentence(one, one.guard)) for name, one in studies.items() if one.guard),
        tuple(f"{name}: {note}" for name, one in studies.items() for note in one.notes),
        tuple(examples),
    )


def _figures(one: Behavior, total: Total, counted: bool, primary: Measure) -> list[str]:
    def difference(found: Interval | None, shares: bool = True) -> str:
        return (
            "–" if found is None else text.points_interval(found, unit=False) if shares else text.number_interval(found)
        )

    cells = [text.percent_interval(one.clean.rate) if one.clean.rate else text.number_interval(one.clean.distance)]
    if counted:
        cells += ["–" if total.rate is None else text.percent_interval(total.rate), difference(total.against)]
    floats = "–" if total.float_figure is None else text.value(primary, total.float_figure)
    ours = "–" if total.figure is None else text.interval(primary, total.figure)
    return [*cells, floats, ours, difference(total.figure_against, primary.unit == "share")]


def _sentences(found: Behaviors) -> tuple[str, ...]:
    rates = {name: one.rate for name, one in found.totals.items() if one.rate is not None}
    if len(rates) < 2:
        return ()
    best, *_, worst = sorted(rates, key=lambda name: rates[name].value)
    return (
        f"Disagreements with float: on {text.percent(rates[best].value)} of the inputs for {best}, on "
        f"{text.percent(rates[worst].value)} for {worst}.",
    )
