"""The panel of the search, as pure data: the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bitwright.report import format as text
from bitwright.report.panels import mean_bits, others
from bitwright.report.run_report import Measured
from bitwright.values import Candidate, Front, Interval, Sites, Verdict

EACH_MOVED = 4
"""Most candidates of which each is told how it moved."""


@dataclass(frozen=True)
class FrontPoint:
    """One policy of the front plot.

    Attributes:
        label: the policy's name, the budget's text, or its place.
        role: ``"front"``, ``"baseline"`` or ``"chosen"``.
        cost: in the metric of the panel.
        costs: every known cost as (name, text with unit).
        predicted: in the panel's unit, or None.
        verdict: what was measured, or None.
        figures: name -> interval of each figure measured, for plots.
        bits: of each site in the order of execution; None is float.
        search: one sentence on the search: budget, share used, proven optimal or the gap; or "".
        mean_weight_bits: per element, float counted as 32; None without weight sites.
        mean_activation_bits: the same for activations.
        graph_hash: of the policy.
    """

    label: str
    role: str
    cost: float
    costs: tuple[tuple[str, str], ...]
    predicted: float | None
    verdict: Verdict | None
    figures: Mapping[str, Interval]
    bits: tuple[int | None, ...]
    search: str
    mean_weight_bits: float | None
    mean_activation_bits: float | None
    graph_hash: str


@dataclass(frozen=True)
class Plotted:
    """A figure on the axis of a plot: shares are multiplied to percent."""

    name: str
    heading: str
    factor: float


@dataclass(frozen=True)
class FrontPanel:
    """The Pareto front with the baselines.

    Attributes:
        points: ascending cost.
        axis: the cost of the horizontal axis with its unit, e.g. ``"Size (KB)"``.
        divisor: what to divide costs by to be in that unit.
        logarithmic: the costs span more than a factor of 8.
        method, unit: of the predictions.
        measures: what can be plotted: the primary figure first; its name, heading and factor.
        reference: the primary figure of the float model, or None when nothing was measured.
        selected: position in ``points`` of the chosen policy, else of the middle one.
        measured_points: how many points have a verdict.
    """

    points: tuple[FrontPoint, ...]
    axis: str
    divisor: float
    logarithmic: bool
    method: str
    unit: str
    measures: tuple[Plotted, ...]
    reference: Interval | None
    selected: int
    measured_points: int


def _figures(verdict: Verdict | None) -> dict[str, Interval]:
    return {} if verdict is None else {name: figure.value for name, figure in verdict.figures.items()}


def _search_sentence(candidate: Candidate) -> str:
    parts = []
    for budget in candidate.budgets:
        name = budget.text or f"{budget.metric} at most {text.cost(budget.metric, budget.limit)}"
        used = candidate.used.get(budget.metric)
        parts.append(f"budget {name}" + (f", {text.percent(used)} of it used" if used is not None else ""))
    if candidate.optimal:
        parts.append("proven optimal for the predicted harm")
    elif candidate.gap > 0:
        parts.append(f"at most {text.percent(candidate.gap, 2)} above the optimum of the predicted harm")
    sentence = "; ".join(parts)
    return sentence[:1].upper() + sentence[1:]


def _point(item: Candidate | Measured, role: str, label: str, front: Front, sites: Sites) -> FrontPoint:
    policy, verdict = item.policy, item.verdict
    return FrontPoint(
        label=label,
        role=role,
        cost=float(item.costs[front.cost]),
        costs=tuple((text.metric_name(m), text.cost(m, v)) for m, v in item.costs.items()),
        predicted=item.predicted,
        verdict=verdict,
        figures=_figures(verdict),
        bits=tuple(policy[name] for name in sites.names),
        search=_search_sentence(item) if isinstance(item, Candidate) else "",
        mean_weight_bits=mean_bits(sites.weights, policy),
        mean_activation_bits=mean_bits(sites.activations, policy),
        graph_hash=policy.graph_hash,
    )


def front_panel(
    front: Front, sites: Sites, baselines: Sequence[Measured] = (), chosen: Measured | None = None
) -> FrontPanel:
    """The front as points with their bits per site.

    A candidate with the bits of the chosen policy becomes the chosen point (with the chosen policy's verdict
    when it has none); a chosen policy that is not on the front is added. Policies without the front's cost are
    left out.
    """
    points: list[FrontPoint] = []
    wanted = dict(chosen.policy.bits) if chosen else None
    found = False
    for place, candidate in enumerate(front, start=1):
        if front.cost not in candidate.costs:
            continue
        fallback = ", ".join(b.text for b in candidate.budgets if b.text) or f"front point {place}"
        point = _point(candidate, "front", candidate.policy.name or fallback, front, sites)
        if not found and wanted is not None and dict(candidate.policy.bits) == wanted:
            found = True
            verdict = candidate.verdict or (chosen.verdict if chosen else None)
            point = replace(point, role="chosen", verdict=verdict, figures=_figures(verdict))
        points.append(point)
    if chosen is not None and not found and front.cost in chosen.costs:
        points.append(_point(chosen, "chosen", chosen.policy.name or "chosen policy", front, sites))
    for place, baseline in enumerate(baselines, start=1):
        if front.cost in baseline.costs:
            label = baseline.policy.name or f"policy {place}"
            points.append(_point(baseline, "baseline", label, front, sites))
    points.sort(key=lambda p: p.cost)
    divisor, unit = text.cost_scale(front.cost, [p.cost for p in points])
    name = text.metric_name(front.cost)
    costs = [p.cost for p in points if p.cost > 0]
    verdicts = [p.verdict for p in points if p.verdict is not None]
    selected = next((i for i, p in enumerate(points) if p.role == "chosen"), len(points) // 2)
    return FrontPanel(
        points=tuple(points),
        axis=f"{name} ({unit})" if unit else name,
        divisor=divisor,
        logarithmic=bool(costs) and max(costs) > 8 * min(costs),
        method=front.method,
        unit=front.unit,
        measures=_plotted(verdicts[0]) if verdicts else (),
        reference=verdicts[0].primary.reference if verdicts else None,
        selected=selected,
        measured_points=len(verdicts),
    )


def course_notes(front: Front) -> tuple[str, ...]:
    """How a front moved while policies were measured and what regret is left, in words; nothing where it was not told.

    Each of a few candidates has a sentence; more of them have one together, with geometric means.
    """
    if not front.course:
        return ()
    if len(front) <= EACH_MOVED:
        return tuple(_moved(front, i) for i in range(len(front)))
    first: dict[int, float] = {}
    for move in front.course:
        for i, harm in enumerate(move.harms):
            if harm is not None:
                first.setdefault(i, harm)
    ratios = [(front.course[-1].harms[i] or 0.0) / harm for i, harm in first.items() if harm > 0.0]
    mean = math.exp(sum(math.log(max(ratio, 1e-300)) for ratio in ratios) / max(len(ratios), 1))
    left = f"; expected regret left: {text.percent(sum(front.regret) / len(front))}" if front.regret else ""
    return (
        f"While {front.course[-1].measured} policies were measured, the smallest harm within each of the {len(front)} "
        f"budgets fell to {text.percent(mean)} of the first one measured, on geometric average{left}.",
    )


def _moved(front: Front, place: int) -> str:
    """One candidate's smallest measured harms, as they were found."""
    steps: list[str] = []
    held: float | None = None
    for move in front.course:
        harm = move.harms[place]
        if harm is not None and harm != held:
            held = harm
            steps.append(f"{harm:.4g} after {move.measured}")
    left = ""
    if front.regret:
        left = f"; the best policy within the budget is expected to have {text.percent(front.regret[place])} less"
    return f"Smallest {front.unit} for {front[place].policy.name}, by policies measured: {', '.join(steps)}{left}."


def _plotted(verdict: Verdict) -> tuple[Plotted, ...]:
    return tuple(
        Plotted(f.measure.name, text.heading(f.measure), 100.0 if f.measure.unit == "share" else 1.0)
        for f in (verdict.primary, *others(verdict))
    )


def point_figures(point: FrontPoint, unit: str) -> tuple[tuple[str, str], ...]:
    """What is known of a point as (name, text with unit): measurements first, then the prediction, then costs."""
    verdict = point.verdict
    rows: list[tuple[str, str]] = []
    if verdict is not None:
        first = verdict.primary
        rows += [(first.measure.label, text.interval(first.measure, first.value))]
        rows += [("Change against float", text.change(first))]
        rows += [(figure.measure.label, text.interval(figure.measure, figure.value)) for figure in others(verdict)]
    else:
        rows.append(("Figures", "not measured"))
    if point.predicted is not None:
        rows.append((f"Predicted ({unit})", text.predicted(point.predicted, unit)))
    return (*rows, *point.costs)
