"""Numbers of the flow in words."""

from __future__ import annotations

from collections.abc import Iterable

from bitwright.debug.bench import Bench
from bitwright.graph.graph import Graph
from bitwright.repair import REPAIRS
from bitwright.report import format as text
from bitwright.values import Verdict
from bitwright.values.recipe import Action

MOST = 0.9
FAR = 20.0
"""An activation is said to have outliers when it reaches so many times as far as most of its values."""


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


def nats(kl: float) -> str:
    """A KL."""
    return f"{kl:.3g} nats"


def outliers_of(graph: Graph, site: str) -> str:
    """A sentence about an activation whose largest values lie far away from most others, else nothing."""
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


def drop_of(bench: Bench, verdict: Verdict) -> str:
    """What is lost on the evaluation data, with its interval where there is one."""
    drop = points(bench.lost(verdict).value, bench.target_drop)
    if bench.task.metric is not None:
        return f"metric {verdict.metrics['metric']:.4g}, {drop} float's"
    change = verdict.accuracy_change
    interval = f"{100 * change.low:+.2f} to {100 * change.high:+.2f} at {change.level:.0%}"
    return f"accuracy {verdict.accuracy.value:.2%}, {drop} float's ({interval})"


def target_of(bench: Bench, verdict: Verdict) -> str:
    """Whether the target holds, in a sentence."""
    return text.target_sentence(bench.lost(verdict), bench.target_drop, verdict.samples)


def points(drop: float, target: float) -> str:
    """A drop in points, with as many digits as it takes to see on which side of the target it lies."""
    digits = 2
    while digits < 6 and drop > target >= round(drop, digits):
        digits += 1
    return f"{abs(drop):.{digits}f} points {'above' if drop < 0 else 'below'}"
