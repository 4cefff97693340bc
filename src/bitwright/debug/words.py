"""Numbers of the flow in words."""

from __future__ import annotations

from collections.abc import Iterable

from bitwright.debug.case import Case
from bitwright.graph.graph import Graph
from bitwright.repair import REPAIRS
from bitwright.report import format as text
from bitwright.values import Measure, Verdict
from bitwright.values.recipe import Action

MOST = 0.9
FAR = 20.0
"""An activation is said to have outliers when it reaches this many times as far as most of its values."""


def named(action: Action) -> str:
    """An action of a recipe as part of a sentence, repairs with their full name before their short one."""
    options = action.options
    if action.kind == "limits":
        return f"the range {options['low']:.4g} to {options['high']:.4g} at {options['site']}"
    known = REPAIRS.get(str(options.get("name"))) if action.kind == "repair" else None
    return f"{known.called} ({action})" if known is not None and known.called != known.name else str(action)


def listed(actions: Iterable[Action]) -> str:
    """Actions in their order, at most four in full."""
    found = [named(action) for action in actions]
    more = f"; and {len(found) - 3} more" if len(found) > 4 else ""
    return "; ".join(found[:3] if more else found) + more


def told(case: Case, distance: float) -> str:
    """A distance with its unit."""
    unit = case.task.measure(case.task.distance).unit
    return f"{distance:.3g} {unit}".rstrip()


def outliers_of(graph: Graph, site: str) -> str:
    """A sentence about an activation whose largest values lie far away from most others, or nothing."""
    seen = graph.quantizers[site].observed
    if seen is None:
        return ""
    largest = max(abs(seen.low), abs(seen.high))
    most = float(seen.sample.abs().float().quantile(MOST))
    if largest < FAR * most:
        return ""
    return f" It has outliers: {MOST:.0%} of its values lie within {most:.3g}, the largest reaches {largest:.3g}."


def share(part: float, whole: float) -> str:
    """A share in whole percent."""
    return f"{100 * part / whole:.0f} %" if whole > 0 else "0 %"


def drop_of(case: Case, verdict: Verdict) -> str:
    """The primary figure on the evaluation data, float's, and the change, with its interval where there is one."""
    figure = verdict.primary
    measure, lost = figure.measure, figure.lost
    assert figure.reference is not None  # or it would have no change
    form = ".2%" if measure.unit == "share" else ".4g"
    alone = case.task.compares and not case.task.metrics  # float compared with itself says nothing
    beside = "" if alone else f"float {figure.reference.value:{form}}, "
    told = f"{measure.word} {figure.value.value:{form}} ({beside}{change(lost.value, case.target_drop, measure)}"
    if lost.method == "none":
        return f"{told})"
    sign = -1 if measure.larger else 1
    low, high = sorted((sign * lost.low, sign * lost.high))
    return f"{told} [{low:+.2f}, {high:+.2f}])"


def allowed(case: Case) -> str:
    """The target: points, or percent of a figure such as a loss."""
    return text.points(case.target_drop, case.task.measure(case.task.primary))


def target_of(case: Case, verdict: Verdict) -> str:
    """Whether the target holds, in a sentence."""
    return text.target_sentence(verdict, case.target_drop)


def change(lost: float, target: float, measure: Measure) -> str:
    """A change in points or percent, with as many digits as it takes to see on which side of the target it lies."""
    digits = 2
    while digits < 6 and lost > target >= round(lost, digits):
        digits += 1
    gained = -lost if measure.larger else lost
    return f"{f'{gained:+.{digits}f}' if gained else '0'} {'%' if measure.relative else 'points'}"
