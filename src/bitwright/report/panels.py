"""The report's panels as pure data: functions from values to small dataclasses, which the renderers draw."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bitwright.cost import FLOAT_BITS, Cost, headline_costs
from bitwright.report import format as text
from bitwright.report.run_report import RunReport
from bitwright.values import FLOAT, Figure, Interval, Measure, Policy, SensitivityTable, Site, Sites, Verdict


@dataclass(frozen=True)
class FigureRow:
    """One row of the figures: a model and what was measured of it.

    Attributes:
        label: the policy's name.
        role: ``"float"``, ``"baseline"``, ``"alternative"`` (chosen for another budget) or ``"chosen"``.
        cells: the text of each column of the panel, a dash where the model has no such figure.
        primary: the interval of the first column, for drawing it; None where nothing was measured.
        costs: metric -> value.
    """

    label: str
    role: str
    cells: tuple[str, ...]
    primary: Interval | None
    costs: Mapping[str, float]


@dataclass(frozen=True)
class FiguresPanel:
    """The float model and all policies side by side.

    Attributes:
        headings: of the columns: the primary figure, its change, then the task's other figures; empty when nothing
            was measured.
        rows: float first, then the baselines, the alternatives and the chosen policy.
        samples: inputs that the figures come from; 0 when nothing was measured.
        cost_metrics: the metrics that any row has, in the order of the costs.
        axis: (low, high) that holds every interval of the primary figure, for drawing them on one scale.
        intervals: one sentence that says what the intervals are.
    """

    headings: tuple[str, ...]
    rows: tuple[FigureRow, ...]
    samples: int
    cost_metrics: tuple[str, ...]
    axis: tuple[float, float]
    intervals: str


@dataclass(frozen=True)
class SiteRow:
    """One site of the network and the bits that a policy gives it (None: float)."""

    position: int
    name: str
    kind: str
    operation: str
    shape: tuple[int, ...]
    numel: int
    scheme: str
    bits: int | None


@dataclass(frozen=True)
class Stage:
    """Consecutive sites (positions within one kind) of one part of the network, for labels under the strip."""

    label: str
    positions: tuple[int, ...]


@dataclass(frozen=True)
class SitesPanel:
    """Bits per site along the network.

    Attributes:
        policy: the policy's name.
        rows: one for each site, in the order of execution.
        weight_stages, activation_stages: the sites grouped by the part of the network that they belong to.
        mean_weight_bits: weighted by the number of elements, float counted as 32; None without weight sites.
        mean_activation_bits: the same for activations.
    """

    policy: str
    rows: tuple[SiteRow, ...]
    weight_stages: tuple[Stage, ...]
    activation_stages: tuple[Stage, ...]
    mean_weight_bits: float | None
    mean_activation_bits: float | None


def figure_rows(
    verdicts: Mapping[str, Verdict],
) -> tuple[tuple[str, ...], tuple[tuple[str, tuple[str, ...]], ...]]:
    """The headings of the last verdict's figures, and each one's name with its figures and their intervals."""
    last = list(verdicts.values())[-1]
    headings = tuple(text.heading(figure.measure) for figure in last.figures.values())
    return headings, tuple(
        (name, tuple(text.interval(figure.measure, figure.value, unit=False) for figure in each.figures.values()))
        for name, each in verdicts.items()
    )


def others(verdict: Verdict) -> list[Figure]:
    """The figures beside the primary one."""
    return [figure for name, figure in verdict.figures.items() if name != verdict.primary_name]


def _row(label: str, role: str, verdict: Verdict | None, costs: Mapping[str, float], columns: int) -> FigureRow:
    if verdict is None:
        return FigureRow(label, role, ("not measured", *["–"] * (columns - 1))[:columns], None, costs)
    values = [f.reference if role == "float" else f.value for f in (verdict.primary, *others(verdict))]
    measures = [f.measure for f in (verdict.primary, *others(verdict))]
    cells = [text.interval(*pair, unit=False) for pair in zip(measures, values, strict=True)]
    cells.insert(1, "–" if role == "float" else text.change(verdict.primary, unit=False))
    return FigureRow(label, role, tuple(cells), values[0], costs)


def _interval_note(verdict: Verdict | None) -> str:
    if verdict is None:
        return ""
    parts: dict[tuple[float, str], list[str]] = {}
    without: list[str] = []
    first = verdict.primary
    named = [(first.measure, first.value)]
    named += [(Measure("change", ""), first.change)] if first.change is not None else []
    named += [(figure.measure, figure.value) for figure in others(verdict)]
    for measure, interval in named:
        method = interval.method.replace("wilson", "Wilson")
        if method == "none":
            without.append(measure.word)
        else:
            parts.setdefault((interval.level, method), []).append(measure.word)
    sentences = [f"{', '.join(names)}: {100 * level:g}% {method}" for (level, method), names in parts.items()]
    if without:
        sentences.append(f"{', '.join(without)}: none, since it is not a mean over inputs")
    if not parts:
        return f"Over {verdict.samples:,} inputs."
    return f"In brackets, intervals over {verdict.samples:,} inputs; {'; '.join(sentences)}."


def figures_panel(report: RunReport) -> FiguresPanel:
    """The figures of float and of all policies, each with its interval."""
    reference = report.reference
    headings: tuple[str, ...] = ()
    if reference is not None:
        first = reference.primary.measure
        change = {"share": "Change, points"}.get(first.unit, "Change")
        headings = (text.heading(first), change, *(text.heading(f.measure) for f in others(reference)))
    models = [("baseline", f"policy {i}", m) for i, m in enumerate(report.baselines, start=1)]
    models += [("alternative", f"budget {i}", m) for i, m in enumerate(report.alternatives, start=2)]
    models += [("chosen", "chosen policy", report.chosen)] if report.chosen else []
    rows = [_row("float", "float", reference, report.float_costs, 0 if reference is None else len(headings))]
    for role, fallback, m in models:
        rows.append(_row(m.policy.name or fallback, role, m.verdict, m.costs, len(headings)))
    ends = [end for row in rows if row.primary for end in (row.primary.low, row.primary.high) if math.isfinite(end)]
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    margin = 0.05 * (high - low) or 0.01
    shares = reference is None or reference.primary.measure.unit == "share"
    return FiguresPanel(
        headings,
        tuple(rows),
        reference.samples if reference else 0,
        tuple(dict.fromkeys(metric for row in rows for metric in row.costs)),
        (max(0.0, low - margin), min(1.0, high + margin)) if shares else (low - margin, high + margin),
        _interval_note(reference),
    )


def headline(report: RunReport) -> str:
    """The run in one plain sentence."""
    chosen = report.chosen
    if chosen is None:
        return "This run has not chosen a policy yet."
    gains = ", ".join(
        _gain(report, cost, report.float_costs[cost.name], chosen.costs[cost.name])
        for cost in headline_costs()
        if report.float_costs.get(cost.name) and chosen.costs.get(cost.name)
    )
    verdict = chosen.verdict
    if verdict is None:
        name = chosen.policy.name or "the chosen policy"
        return f"{name} was chosen by prediction{': ' if gains else ''}{gains}; it was not measured."
    first = verdict.primary
    name = "top-1" if first.measure.label == "Top-1" else first.measure.word
    sentence = f"{text.interval(first.measure, first.value)} {name}"
    if first.reference is not None:
        exact = text.interval(first.measure, first.reference).partition(" [")[0]
        sentence += f" (float {exact}, {text.change(first)})"
    sentence += f"{', ' if gains else ''}{gains}"
    parity = report.parity
    if parity is None or parity.fused_agreement is None:
        return f"{sentence}."
    agrees = text.agreed(parity, parity.fused_agreement)
    return f"{sentence}; {runtime_name(parity.runtime)} agrees with the simulation on {agrees}."


def _gain(report: RunReport, cost: Cost, before: float, after: float) -> str:
    """What became of a cost; what is stored is the file where there is one."""
    assert cost.headline is not None
    if cost.stored and report.file_bytes:
        smaller = text.times(report.float_file_bytes, report.file_bytes, *cost.headline)
        return f"{smaller} (a file of {text.cost(cost.name, report.file_bytes)})"
    return text.times(before, after, *cost.headline)


def target_line(report: RunReport) -> str:
    """Whether the target that was asked for holds, in one sentence; nothing where none was."""
    if report.outcome is None or report.target_drop is None or report.chosen is None or report.chosen.verdict is None:
        return ""
    return text.target_sentence(report.chosen.verdict, report.target_drop)


def runtime_name(runtime: str) -> str:
    """``"ONNX Runtime 1.31"`` without its version."""
    return re.sub(r" [0-9][^ ]*$", "", runtime) or "the runtime"


def stages(names: Sequence[str], positions: Sequence[int] | None = None) -> tuple[Stage, ...]:
    """Group consecutive names by their first module levels: the fewest levels that give three groups or more.

    Args:
        names: site names in the order of execution.
        positions: the number that stands for each name; by default 0, 1, 2, ...
    """
    numbers = range(len(names)) if positions is None else positions
    runs: list[tuple[str, list[int]]] = []
    for depth in range(1, 5):
        runs = []
        for name, position in zip(names, numbers, strict=True):
            path = name.removesuffix(".weight").split(".")
            label = ".".join(path[:depth])
            if runs and runs[-1][0] == label:
                runs[-1][1].append(position)
            else:
                runs.append((label, [position]))
        if len(runs) >= 3:
            break
    return tuple(Stage(label, tuple(members)) for label, members in runs)


def mean_bits(sites: Iterable[Site], policy: Policy) -> float | None:
    """Bits of sites under a policy, the mean over their elements, float counted as 32; None without sites."""
    counted = [(site.numel, policy[site.name] or FLOAT_BITS) for site in sites]
    return sum(n * bits for n, bits in counted) / sum(n for n, _ in counted) if counted else None


def sites_panel(sites: Sites, policy: Policy = FLOAT) -> SitesPanel:
    """Bits per site along the network under a policy."""
    rows = tuple(
        SiteRow(i, s.name, s.kind, s.operation, s.shape, s.numel, s.scheme.words, policy[s.name])
        for i, s in enumerate(sites)
    )
    weights, activations = ([row for row in rows if row.kind == kind] for kind in ("weight", "activation"))
    return SitesPanel(
        policy.name or "chosen policy",
        rows,
        stages([row.name for row in weights], [row.position for row in weights]),
        stages([row.name for row in activations], [row.position for row in activations]),
        mean_bits(sites.weights, policy),
        mean_bits(sites.activations, policy),
    )


def start_width(bits: Sequence[int]) -> int:
    """The width to show first: 4 bits where the table has it, otherwise the middle one."""
    return 4 if 4 in bits else bits[(len(bits) - 1) // 2]


def sensitivity_panel(table: SensitivityTable, sites: Sites) -> dict[str, Any]:
    """A sensitivity table as plain data; kinds and doubts are ``""`` for sites that have none."""
    errors = table.standard_error
    return {
        **{name: getattr(table, name) for name in ("method", "unit", "samples", "notes", "sites", "bits")},
        "start": start_width(table.bits),
        "harm": table.harm.tolist(),
        "standard_error": None if errors is None else errors.tolist(),
        "kinds": [sites[name].kind if name in sites else "" for name in table.sites],
        "doubts": [table.doubts.get(name, "") for name in table.sites],
    }
