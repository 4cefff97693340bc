"""Numbers as text, each with its unit: the same words in the page and on the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from bitwright.cost import COSTS, Latency, scale
from bitwright.values import Closeness, Drift, Figure, Interval, Measure, Parity, Verdict
from bitwright.values.table import FLIPS
from bitwright.values.verdict import outcome_of, samples_to_decide

_LEAST = 0.0001
_LAST_DIGIT = 0.01  # steps: so far from the middle, rounding errors of floats in front of a site do not decide
"""The smallest error in percent that is written as a number."""


def significant(value: float, digits: int = 3) -> str:
    """``value`` to this many significant digits, without trailing exponent noise; ``"not finite"`` for NaN and inf."""
    if not math.isfinite(value):
        return "not finite"
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if size < -4 or size > 6:
        return f"{value:.{digits - 1}e}"
    return f"{value:,.{max(0, digits - 1 - size)}f}"


def percent(share: float, digits: int = 1) -> str:
    """A share between 0 and 1 as ``"90.9%"``; never rounds up to 100% what is not all."""
    if not math.isfinite(share):
        return "not finite"
    text = f"{100 * share:.{digits}f}"
    if share < 1 and float(text) >= 100:
        text = f"{100 - 10**-digits:.{digits}f}"
    return f"{text}%"


def predicted(value: float, unit: str) -> str:
    """A predicted harm in its unit, without the unit's name."""
    return percent(value, 2) if unit == FLIPS else significant(value)


def percent_interval(interval: Interval) -> str:
    """``"90.9% [88.8, 92.7]"``."""
    return f"{percent(interval.value)} [{percent(interval.low)[:-1]}, {percent(interval.high)[:-1]}]"


def _signed(value: float) -> str:
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("-0.0", "+0.0") else text


def points_interval(interval: Interval, unit: bool = True) -> str:
    """A difference of shares in percentage points: ``"-0.8 points [-1.7, +0.1]"``."""
    return f"{_signed(interval.value)}{' points' if unit else ''} [{_signed(interval.low)}, {_signed(interval.high)}]"


def points(value: float, measure: Measure | None = None) -> str:
    """What may be lost of a figure: ``"0.5 points"``, or ``"0.5%"`` where that counts relative to float."""
    if measure is not None and measure.relative:
        return f"{value:g}%"
    return f"{value:g} point{'' if value == 1 else 's'}"


def target_sentence(verdict: Verdict, target: float) -> str:
    """Whether at most this many points are lost, by the ends of the interval of what is lost."""
    lost, samples = verdict.lost, verdict.samples
    outcome = outcome_of(lost, target)
    allowed = points(target, verdict.primary.measure)
    if outcome == "undecided":
        needed = samples_to_decide(lost, target, samples)
        more = f"; about {needed:,} evaluation samples would probably decide it, not {samples:,}" if needed else ""
        return f"Whether the target of {allowed} holds is undecided: the interval lies on both sides{more}."
    words = "holds" if outcome == "holds" else "does not hold"
    where = "within" if outcome == "holds" else "beyond"
    reason = f": the whole interval is {where} it" if lost.low < lost.high else ""
    return f"The target of {allowed} {words}{reason}."


def number_interval(interval: Interval, digits: int = 3) -> str:
    """``"0.312 [0.280, 0.345]"``; the ends with the decimals of the value."""
    value = significant(interval.value, digits)
    if "e" in value or not math.isfinite(interval.value):
        return f"{value} [{significant(interval.low, digits)}, {significant(interval.high, digits)}]"
    decimals = len(value.partition(".")[2])
    return f"{value} [{interval.low:,.{decimals}f}, {interval.high:,.{decimals}f}]"


def heading(measure: Measure) -> str:
    """A figure's heading with its unit: ``"Top-1 %"``, ``"KL to float, nats"``."""
    unit = {"share": " %", "": ""}.get(measure.unit, f", {measure.unit}")
    return f"{measure.label}{unit}"


def value(measure: Measure, number: float) -> str:
    """A figure without its interval."""
    return percent(number) if measure.unit == "share" else significant(number)


def interval(measure: Measure, found: Interval | None, unit: bool = True) -> str:
    """A figure with its interval: ``"90.9% [88.8, 92.7]"``, ``"0.312 [0.280, 0.345] nats"``; a dash for None."""
    if found is None:
        return "–"
    if measure.unit == "share":
        told = percent_interval(found)
        return told if unit else told.replace("%", "", 1)
    if math.isinf(found.value):
        return "nothing is lost"
    told = number_interval(found) if found.method != "none" else significant(found.value)
    return f"{told} {measure.unit}" if unit and measure.unit else told


def change(figure: Figure, unit: bool = True) -> str:
    """A figure's change against float: ``"-0.8 points [-1.7, +0.1]"``, ``"+0.021 [+0.010, +0.034]"``."""
    found = figure.change
    if found is None:
        return "–"
    if figure.measure.unit == "share":
        return points_interval(found, unit)
    value = significant(found.value)
    if found.method == "none":
        return f"+{value}" if found.value > 0 else value
    decimals = len(value.partition(".")[2])
    return f"{found.value:+,.{decimals}f} [{found.low:+,.{decimals}f}, {found.high:+,.{decimals}f}]"


def drop(verdict: Verdict, value: float) -> str:
    """What may be lost: ``"0.5 points of accuracy"``, ``"2% of the loss"``."""
    measure = verdict.primary.measure
    return f"{points(value, measure)} of {'the ' if measure.relative else ''}{measure.word}"


def may_lose(verdict: Verdict, where: str) -> str:
    """What a policy costs at most, measured on calibration data (:attr:`Verdict.may_lose`), in words."""
    if not verdict.bound_name:
        return f"loses {drop(verdict, round(verdict.may_lose, 2))} on {where}"
    share = f"{verdict.may_lose:.2f}%"
    return f"changes {share} of the predictions on {where}, and {verdict.primary_name} can fall by no more than that"


def count(share: float, samples: int) -> str:
    """A share of samples as ``"843 of 846"``."""
    return f"{round(share * samples):,} of {samples:,}"


def agreed(parity: Parity, share: float) -> str:
    """How often a file agrees with the simulation: ``"843 of 846 inputs"``, or a share where inputs agree in part."""
    whole = share * parity.samples
    if abs(whole - round(whole)) < 1e-6:
        return f"{count(share, parity.samples)} inputs"
    return f"{percent(share, 2)} of the predictions for {parity.samples:,} inputs"


def closeness(values: Closeness) -> str:
    """``"1.2 output steps (relative error 0.3%, SQNR 50.2 dB)"``; without the rest where nothing differs."""
    steps = f"{significant(values.steps)} output {'step' if values.steps == 1 else 'steps'}"
    if values.sqnr is None:
        return steps
    percents = 100 * values.relative_error
    told = f"{significant(percents)}%" if percents >= _LEAST else f"less than {_LEAST}%"
    return f"{steps} (relative error {told}, SQNR {values.sqnr:.1f} dB)"


def drift(found: Drift | None) -> str:
    """Where a file begins to differ, as the end of a sentence; nothing where that is not known."""
    if found is None:
        return ""
    said = (
        f"; the first values to differ are those of '{found.site}' ({found.operation}), {percent(found.share, 2)} of "
        f"them, by up to {significant(found.steps)} {'step' if found.steps == 1 else 'steps'}"
    )
    if found.middle is None or found.middle > _LAST_DIGIT:
        return said
    return (
        f"{said}: unrounded, they lie within {significant(found.middle, 1)} steps of the middle between two, where the "
        "last digit of a float decides"
    )


def metric_name(metric: str) -> str:
    """The metric's name for people."""
    known = COSTS.get(metric)
    return metric.capitalize() if known is None else known.called


def cost_scale(metric: str, values: Iterable[float]) -> tuple[float, str]:
    """The divisor and the unit that suit the largest of these costs, e.g. ``(1e3, "KB")``, ``(1e9, "GBOPs")``."""
    known = COSTS.get(metric)
    unit = known.unit if known is not None else Latency.unit if metric == Latency.name else ""
    divisor, prefix = scale(unit, max(values, default=0.0))
    symbol = "" if known is None else known.symbol
    return divisor, f"{prefix}{symbol}" or unit


def cost(metric: str, value: float) -> str:
    """A cost with its unit: ``"65.3 KB"``, ``"0.65 GBOPs"``, ``"1.20 ms"``."""
    divisor, unit = cost_scale(metric, [value])
    text = significant(value / divisor) if unit != "B" else f"{value:,.0f}"
    return f"{text} {unit}".rstrip()


def times(before: float, after: float, less: str, more: str) -> str:
    """What became of a cost, e.g. ``"8.1 x smaller"`` or, where it grew, ``"1.2 x larger"``."""
    ratio = max(before, after) / min(before, after)
    digits = 2 if ratio < 1.05 else 1
    shown = f"{ratio:.{digits}f}".removesuffix(".0") if ratio < 9.95 else f"{ratio:,.0f}"
    return f"{shown} x {less if after <= before else more}"


def duration(seconds: float) -> str:
    """``"45 ms"``, ``"3.2 s"``, ``"4 min 5 s"``."""
    if not math.isfinite(seconds):
        return "not finite"
    if seconds < 1:
        divisor, unit = scale(Latency.unit, seconds)
        return f"{significant(seconds / divisor)} {unit}"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def bits(value: int | None) -> str:
    """Bits of a site as text; None is float."""
    return "float" if value is None else str(value)


def settings(job: Mapping[str, Any], prefix: str = "") -> tuple[tuple[str, str], ...]:
    """Nested settings as flat rows of text: ``{"data": {"n": 3}}`` -> ``(("data.n", "3"),)``."""
    rows: list[tuple[str, str]] = []
    for key, value in job.items():
        if isinstance(value, Mapping):
            rows += settings(value, f"{prefix}{key}.")
        elif isinstance(value, (list, tuple, set, frozenset)):
            rows.append((f"{prefix}{key}", ", ".join(str(v) for v in value) or "none"))
        elif isinstance(value, bool):
            rows.append((f"{prefix}{key}", "yes" if value else "no"))
        else:
            rows.append((f"{prefix}{key}", "not set" if value is None or value == "" else str(value)))
    return tuple(rows)
