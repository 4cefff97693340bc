"""Numbers of the flow in words."""

from __future__ import annotations

from bitwright.debug.bench import Bench
from bitwright.values import Verdict


def nats(kl: float) -> str:
    """A KL."""
    return f"{kl:.3g} nats"


def share(part: float, whole: float) -> str:
    """A share in whole percent."""
    return f"{100 * part / whole:.0f} %" if whole > 0 else "0 %"


def drop_of(bench: Bench, verdict: Verdict) -> str:
    """What is lost on the evaluation data, with its interval where there is one."""
    drop = bench.drop(verdict)
    if bench.task.metric is not None:
        return f"metric {verdict.metrics['metric']:.4g}, {_points(drop)} float's"
    change = verdict.accuracy_change
    interval = f"{100 * change.low:+.2f} to {100 * change.high:+.2f} at {change.level:.0%}"
    return f"accuracy {verdict.accuracy.value:.2%}, {_points(drop)} float's ({interval})"


def _points(drop: float) -> str:
    return f"{abs(drop):.2f} points {'above' if drop < 0 else 'below'}"
