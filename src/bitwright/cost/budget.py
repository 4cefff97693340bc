"""Budgets in plain words: ``bops=W4A4``, ``size=60%``, ``size=250KB``."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

from bitwright.cost.model import COSTS, FLOAT_BITS, CostModel, costs_for
from bitwright.errors import InvalidInput, InvalidPolicy, nearest
from bitwright.values import Budget, Policy, Sites

_COUNTS = {"P": 1e15, "T": 1e12, "G": 1e9, "M": 1e6, "K": 1e3, "": 1.0}
_SHOWN = {
    "bit operations": _COUNTS,
    "bytes": {"GB": 1e9, "MB": 1e6, "KB": 1e3, "B": 1.0},
    "seconds": {"s": 1.0, "ms": 1e-3, "µs": 1e-6, "ns": 1e-9},
}
"""Unit -> prefixes in which it is shown, the largest first, and read."""
_READ = {
    "bytes": {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30},
    "seconds": {"": 1.0, "us": 1e-6},
}
"""Unit -> how it can be written as well."""
_NUMBER = re.compile(r"^([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*([a-zµ%]*)$", re.IGNORECASE)
_UNIFORM = re.compile(r"^w(float|[0-9]+)a(float|[0-9]+)$", re.IGNORECASE)


def examples() -> str:
    """Budgets as one can write them, for messages."""
    return ", ".join(f"{cost.name}={limit}" for cost in COSTS.values() for limit in cost.examples)


def scale(unit: str, value: float) -> tuple[float, str]:
    """What to divide a cost by to show it, and the prefix that then stands with it, e.g. ``(1e3, "KB")``."""
    steps = [(factor, prefix) for prefix, factor in _SHOWN.get(unit, {"": 1.0}).items()]
    return next((step for step in steps if abs(value) >= step[0]), steps[-1])


def human(value: float, unit: str, round_up: bool = False) -> str:
    """A cost as people write it, with four digits, e.g. ``61.35KB``; parse_budget reads it back.

    Args:
        value: in ``unit``.
        unit: the ``unit`` of the cost model.
        round_up: so that a budget of the text is never below ``value``.
    """
    step, suffix = scale(unit, value)
    scaled = value / step
    if round_up and scaled > 0:
        digit = 10.0 ** (math.floor(math.log10(scaled)) - 3)
        scaled = math.ceil(scaled / digit * (1 - 1e-12)) * digit
    text = f"{scaled:.4g}" if abs(scaled) < 1e4 else f"{scaled:.4e}"
    return f"{text}{suffix}"


def keeps(policy: Policy, budgets: Iterable[Budget], sites: Sites, models: Mapping[str, CostModel]) -> bool:
    """Whether a policy keeps all budgets, by these costs."""
    return all(models[b.metric].of(policy, sites) <= b.limit * (1 + 1e-12) for b in budgets)


def uniform_policy(text: str, sites: Sites) -> Policy | None:
    """The uniform policy that a word such as ``W4A8`` or ``WfloatA8`` names; None where it is no such word.

    Raises:
        InvalidPolicy: bits outside 2 to 16.
    """
    found = _UNIFORM.match(text)
    if found is None:
        return None
    widths = [None if w.lower() == "float" or int(w) == FLOAT_BITS else int(w) for w in found.groups()]
    return Policy.uniform(sites, weights=widths[0], activations=widths[1])


def parse_budget(text: str | Budget, sites: Sites, costs: Mapping[str, CostModel] | None = None) -> Budget:
    """Read one budget.

    Args:
        text: ``METRIC=LIMIT``. The limit is a number with a unit (B, KB, MB, KiB, MiB for size; K, M, G, T
            for BOPs; s, ms, us for latency), a percentage of the float32 cost, or a uniform policy such as
            ``W4A8`` whose cost it takes.
        sites: of the graph that it is for.
        costs: metric -> cost model; None: all registered ones, for the default runtime.

    Raises:
        InvalidInput: not a budget; the message says what is wrong and gives examples.
    """
    known = costs_for() if costs is None else costs
    if isinstance(text, Budget):
        if text.metric not in known:
            raise InvalidInput(f"unknown cost '{text.metric}' in {text}; known are: {', '.join(known)}")
        if not (text.limit > 0 and math.isfinite(text.limit)):
            raise InvalidInput(f"a budget must be above 0 and finite, got {text.limit} for '{text.metric}'")
        return text
    if not isinstance(text, str):
        raise InvalidInput(f"a budget must be text, got {text!r}; write it like one of: {examples()}")
    metric, equals, limit = (part.strip() for part in text.partition("="))
    metric = metric.lower()
    if not equals or not metric or not limit:
        raise InvalidInput(
            f"a budget must have the form METRIC=LIMIT, got '{text}'; write it like one of: {examples()}"
        )
    if metric not in known:
        raise InvalidInput(
            f"unknown cost '{metric}' in the budget '{text}'; known are: {', '.join(known)}{nearest(metric, known)}"
        )
    value = _limit(limit, text, known[metric], sites)
    if not (value > 0 and math.isfinite(value)):
        raise InvalidInput(f"a budget must be above 0 and finite, got '{text}'")
    return Budget(metric, value, f"{metric}={limit}")


def _limit(limit: str, text: str, model: CostModel, sites: Sites) -> float:
    try:
        uniform = uniform_policy(limit, sites)
    except InvalidPolicy as error:
        raise InvalidInput(f"the budget '{text}' names a policy that does not exist: {error}") from None
    if uniform is not None:
        return model.of(uniform, sites)
    number = _NUMBER.match(limit)
    if not number:
        raise InvalidInput(f"cannot read the limit of the budget '{text}'; write it like one of: {examples()}")
    value, unit = float(number.group(1)), number.group(2).lower()
    if unit == "%":
        return value / 100 * model.of(Policy(), sites)
    shown = {prefix.lower(): factor for prefix, factor in _SHOWN.get(model.unit, _COUNTS).items()}
    units = {**shown, **_READ.get(model.unit, {})}
    if unit not in units:
        names = ", ".join(u for u in sorted(units, key=units.__getitem__) if u)
        raise InvalidInput(
            f"unknown unit '{number.group(2)}' in the budget '{text}'; {model.name} takes {names}, "
            "% (of the cost in float32), or a uniform policy such as W4A8"
        )
    return value * units[unit]


def parse_budgets(
    budgets: str | Budget | Iterable[str | Budget], sites: Sites, costs: Mapping[str, CostModel] | None = None
) -> tuple[Budget, ...]:
    """Read several budgets that must all hold at once.

    Args:
        budgets: text with budgets separated by commas or blanks, or a list of such texts or budgets.
        sites: of the graph that they are for.
        costs: metric -> cost model; None: all registered ones, for the default runtime.

    Raises:
        InvalidInput: one of them is not a budget, or there is none.
    """
    entries = [budgets] if isinstance(budgets, str | Budget) else list(budgets)
    found: list[Budget] = []
    for entry in entries:
        if isinstance(entry, str):
            joined = re.sub(r"\s*=\s*", "=", entry)
            joined = re.sub(r"(?<=[0-9])\s+(?=[a-zA-Z%]+(\s*,|\s|$))", "", joined)
            parts = [part for part in re.split(r"[,;\s]+", joined) if part]
            found.extend(parse_budget(part, sites, costs) for part in parts)
        else:
            found.append(parse_budget(entry, sites, costs))
    if not found:
        raise InvalidInput(f"no budget given; write it like one of: {examples()}")
    return tuple(found)
