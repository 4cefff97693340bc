"""The report's panels as pure data: functions from values to small dataclasses, which the renderers draw."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bitwright.report import format as text
from bitwright.report.run_report import Measured, RunReport
from bitwright.values import FLOAT, Interval, Policy, SensitivityTable, Site, Sites, Verdict
from bitwright.values.verdict import points_lost

FLOAT_BITS = 32


@dataclass(frozen=True)
class Figure:
    """One row of the figures: a model and what was measured of it.

    Attributes:
        label: the policy's name.
        role: ``"float"``, ``"baseline"``, ``"alternative"`` (chosen for another budget) or ``"chosen"``.
        accuracy: share of correct predictions, 0 to 1.
        change: accuracy minus float accuracy; None for float itself.
        agreement: share of predictions equal to float's; None for float itself.
        kl: from float, in nats; None for float itself.
        loss: mean loss.
        costs: metric -> value.
        metrics: the user's own metrics.
    """

    label: str
    role: str
    accuracy: Interval | None
    change: Interval | None
    agreement: Interval | None
    kl: Interval | None
    loss: Interval | None
    costs: Mapping[str, float]
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class FiguresPanel:
    """The float model and all policies side by side.

    Attributes:
        rows: float first, then the baselines, the alternatives and the chosen policy.
        samples: inputs that the figures come from; 0 when nothing was measured.
        cost_metrics: the metrics that any row has, in the order of the costs.
        user_metrics: names of the user's own metrics.
        axis: (low, high) that holds every accuracy interval, for drawing them on one scale.
        intervals: one sentence that says what the intervals are.
    """

    rows: tuple[Figure, ...]
    samples: int
    cost_metrics: tuple[str, ...]
    user_metrics: tuple[str, ...]
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
        counts: (kind, bits, number of sites), kinds in order, most bits first.
    """

    policy: str
    rows: tuple[SiteRow, ...]
    weight_stages: tuple[Stage, ...]
    activation_stages: tuple[Stage, ...]
    mean_weight_bits: float | None
    mean_activation_bits: float | None
    counts: tuple[tuple[str, int | None, int], ...]


@dataclass(frozen=True)
class SensitivityRow:
    """Predicted harm of one site at one width, with its standard error when the method has one."""

    rank: int
    site: str
    kind: str
    harm: float
    standard_error: float | None


@dataclass(frozen=True)
class SensitivityPanel:
    """One method's table, ready to draw.

    Attributes:
        kinds: of each site, ``""`` for sites that the graph does not have.
        start: the width that is shown first.
    """

    method: str
    unit: str
    samples: int
    notes: tuple[str, ...]
    sites: tuple[str, ...]
    kinds: tuple[str, ...]
    bits: tuple[int, ...]
    start: int
    harm: tuple[tuple[float, ...], ...]
    standard_error: tuple[tuple[float, ...], ...] | None


_COMPARED = {"size": ("smaller", "larger"), "bops": ("fewer bit operations", "more bit operations")}
_OF_FLOAT = "float "
"""A verdict has the float model's value of a metric under the metric's name with this in front."""


def _figure(measured: Measured, role: str, fallback: str) -> Figure:
    verdict = measured.verdict
    label = text.policy_label(measured.policy, fallback)
    if verdict is None:
        return Figure(label, role, None, None, None, None, None, measured.costs, {})
    return Figure(
        label,
        role,
        verdict.accuracy,
        verdict.accuracy_change,
        verdict.agreement,
        verdict.kl,
        verdict.loss,
        measured.costs,
        {name: value for name, value in verdict.metrics.items() if not name.startswith(_OF_FLOAT)},
    )


def _float_figure(reference: Verdict | None, costs: Mapping[str, float]) -> Figure:
    if reference is None:
        return Figure("float", "float", None, None, None, None, None, costs, {})
    metrics = {n.removeprefix(_OF_FLOAT): v for n, v in reference.metrics.items() if n.startswith(_OF_FLOAT)}
    return Figure("float", "float", reference.float_accuracy, None, None, None, reference.float_loss, costs, metrics)


def _interval_note(verdict: Verdict | None) -> str:
    if verdict is None:
        return ""
    parts: dict[tuple[float, str], list[str]] = {}
    named = [
        ("accuracy", verdict.accuracy),
        ("change", verdict.accuracy_change),
        ("agreement", verdict.agreement),
        ("KL", verdict.kl),
        ("loss", verdict.loss),
    ]
    for name, interval in named:
        method = interval.method.replace("wilson", "Wilson")
        parts.setdefault((interval.level, method), []).append(name)
    sentences = [f"{', '.join(names)}: {100 * level:g}% {method}" for (level, method), names in parts.items()]
    return f"In brackets, intervals over {verdict.samples:,} inputs; {'; '.join(sentences)}."


def figures_panel(report: RunReport) -> FiguresPanel:
    """The figures of float and of all policies, each with its interval."""
    rows = [_float_figure(report.reference, report.float_costs)]
    rows += [_figure(m, "baseline", f"policy {i + 1}") for i, m in enumerate(report.baselines)]
    rows += [_figure(m, "alternative", f"budget {i}") for i, m in enumerate(report.alternatives, start=2)]
    if report.chosen:
        rows.append(_figure(report.chosen, "chosen", "chosen policy"))
    ends = [end for row in rows if row.accuracy for end in (row.accuracy.low, row.accuracy.high) if math.isfinite(end)]
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    margin = 0.05 * (high - low) or 0.01
    cost_metrics = tuple(dict.fromkeys(metric for row in rows for metric in row.costs))
    user_metrics = tuple(dict.fromkeys(name for row in rows for name in row.metrics))
    samples = report.reference.samples if report.reference else 0
    return FiguresPanel(
        tuple(rows),
        samples,
        cost_metrics,
        user_metrics,
        (max(0.0, low - margin), min(1.0, high + margin)),
        _interval_note(report.reference),
    )


def headline(report: RunReport) -> str:
    """The run in one plain sentence."""
    chosen = report.chosen
    if chosen is None:
        return "This run has not chosen a policy yet."
    gains = ", ".join(
        text.times(report.float_costs[metric], chosen.costs[metric], *words)
        for metric, words in _COMPARED.items()
        if report.float_costs.get(metric) and chosen.costs.get(metric)
    )
    verdict = chosen.verdict
    if verdict is None:
        name = text.policy_label(chosen.policy, "the chosen policy")
        return f"{name} was chosen by prediction{': ' if gains else ''}{gains}; its accuracy was not measured."
    sentence = (
        f"{text.percent_interval(verdict.accuracy)} top-1 (float {text.percent(verdict.float_accuracy.value)}, "
        f"{text.points_interval(verdict.accuracy_change)}){', ' if gains else ''}{gains}"
    )
    parity = report.parity
    if parity is None or parity.fused_agreement is None:
        return f"{sentence}."
    predictions = parity.predictions or parity.samples
    agrees = text.count(parity.fused_agreement, predictions)
    counted = "inputs" if predictions == parity.samples else "positions"
    return f"{sentence}; {runtime_name(parity.runtime)} agrees with the simulation on {agrees} {counted}."


def target_line(report: RunReport) -> str:
    """Whether the target that was asked for holds, in one sentence; nothing where none was."""
    if report.outcome is None or report.target_drop is None or report.chosen is None or report.chosen.verdict is None:
        return ""
    verdict = report.chosen.verdict
    return text.target_sentence(points_lost(verdict.accuracy_change), report.target_drop, verdict.samples)


def runtime_name(runtime: str) -> str:
    """``"ONNX Runtime 1.31"`` without its version."""
    return re.sub(r" [0-9][^ ]*$", "", runtime) or "the runtime"


def _scheme(site: Site) -> str:
    scheme = site.scheme
    each = {"tensor": "one scale", "channel": "scale per channel"}.get(
        scheme.granularity, f"scale per group of {scheme.group_size}"
    )
    return f"{'symmetric' if scheme.symmetric else 'asymmetric'}, {'signed' if scheme.signed else 'unsigned'}, {each}"


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


def _mean_bits(rows: Sequence[SiteRow]) -> float | None:
    total = sum(row.numel for row in rows)
    if not total:
        return None
    return sum(row.numel * (FLOAT_BITS if row.bits is None else row.bits) for row in rows) / total


def sites_panel(sites: Sites, policy: Policy = FLOAT) -> SitesPanel:
    """Bits per site along the network under a policy."""
    rows = tuple(
        SiteRow(i, s.name, s.kind, s.operation, s.shape, s.numel, _scheme(s), policy[s.name])
        for i, s in enumerate(sites)
    )
    kinds: dict[str, list[SiteRow]] = {"weight": [], "activation": []}
    for row in rows:
        kinds[row.kind].append(row)
    counts = [
        (kind, bits, sum(row.bits == bits for row in members))
        for kind, members in kinds.items()
        for bits in sorted({row.bits for row in members}, key=lambda b: -FLOAT_BITS if b is None else -b)
    ]
    weights, activations = kinds["weight"], kinds["activation"]
    return SitesPanel(
        text.policy_label(policy, "chosen policy"),
        rows,
        stages([row.name for row in weights], [row.position for row in weights]),
        stages([row.name for row in activations], [row.position for row in activations]),
        _mean_bits(weights),
        _mean_bits(activations),
        tuple(counts),
    )


def start_width(bits: Sequence[int]) -> int:
    """The width to show first: 4 bits where the table has it, else the middle one."""
    return 4 if 4 in bits else bits[(len(bits) - 1) // 2]


def sensitivity_rows(table: SensitivityTable, bits: int, sites: Sites | None = None) -> tuple[SensitivityRow, ...]:
    """Sites by predicted harm at a width, worst first.

    Raises:
        InvalidInput: the table does not have this width.
    """
    column = table.column(bits)
    errors = table.standard_error
    return tuple(
        SensitivityRow(
            rank,
            name,
            sites[name].kind if sites is not None and name in sites else "",
            harm,
            None if errors is None else float(errors[table.row(name), column]),
        )
        for rank, (name, harm) in enumerate(table.ranking(bits), start=1)
    )


def sensitivity_panel(table: SensitivityTable, sites: Sites | None = None) -> SensitivityPanel:
    """A sensitivity table as plain tuples."""
    errors = table.standard_error
    return SensitivityPanel(
        table.method,
        table.unit,
        table.samples,
        table.notes,
        table.sites,
        tuple(sites[name].kind if sites is not None and name in sites else "" for name in table.sites),
        table.bits,
        start_width(table.bits),
        tuple(tuple(float(v) for v in row) for row in table.harm),
        None if errors is None else tuple(tuple(float(v) for v in row) for row in errors),
    )
