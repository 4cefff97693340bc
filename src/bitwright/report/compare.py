"""Two or more runs side by side, as pure data: their figures, their differences, and their bits site by site."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bitwright.errors import InvalidInput
from bitwright.report import format as text
from bitwright.report.panels import others
from bitwright.report.run_report import RunReport
from bitwright.values import Interval, Measure, Verdict
from bitwright.values.behavior import Apart
from bitwright.values.verdict import within

MISSING = "not in this graph"


@dataclass(frozen=True)
class RunColumn:
    """One run: what was measured of its chosen policy, as text, in the order of the panel's headings; and its costs."""

    label: str
    policy: str
    figures: tuple[str, ...]
    costs: tuple[str, ...]


@dataclass(frozen=True)
class Difference:
    """A later run minus the first one.

    Attributes:
        label: of the later run.
        primary: difference of the primary figures with its interval, or None when either was not measured, or they are
            figures of two tasks.
        change: the same in words.
        changed_sites: number of sites with other bits.
        costs: (metric name, later / first).
    """

    label: str
    primary: Interval | None
    change: str
    changed_sites: int
    costs: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class ComparedSite:
    """One site and its bits in each run as text: a number, ``"float"`` or ``"not in this graph"``."""

    name: str
    kind: str
    bits: tuple[str, ...]


@dataclass(frozen=True)
class ComparePanel:
    """Runs side by side.

    Attributes:
        columns: one for each run.
        headings: of the figures: the primary one of the first run, its change, then the others.
        cost_names: names of the costs in each column's ``costs``.
        differences: every later run against the first.
        changed: sites whose bits are not the same in all runs, in the order of execution.
        unchanged: how many sites have the same bits in all runs.
        note: what the intervals of the differences are.
    """

    columns: tuple[RunColumn, ...]
    headings: tuple[str, ...]
    cost_names: tuple[str, ...]
    differences: tuple[Difference, ...]
    changed: tuple[ComparedSite, ...]
    unchanged: int
    note: str

    @property
    def headline(self) -> str:
        """The comparison in one plain sentence."""
        total = len(self.changed) + self.unchanged
        sites = f"{len(self.changed)} of {total} sites do not have the same bits in all runs"
        if len(self.differences) > 1:
            return f"{sites}."
        item = self.differences[0]
        parts = [
            item.change,
            *(f"{ratio:.2f} times the {within(name)}" for name, ratio in item.costs),
        ]
        return f"{item.label} against {self.columns[0].label}: {', '.join(parts)}; {sites}."


def primary_difference(first: Verdict, later: Verdict) -> Interval | None:
    """The primary figure of ``later`` minus that of ``first``, from their two intervals; None for two tasks.

    Newcombe (1998), method 10, for independent inputs. The verdicts do not keep the single samples, so a
    paired interval is out of reach; on the same inputs this one is wider than a paired one would be.
    """
    if first.primary.measure != later.primary.measure:
        return None
    a, b = first.primary.value, later.primary.value
    value = b.value - a.value
    low = value - math.hypot(b.value - b.low, a.high - a.value)
    high = value + math.hypot(b.high - b.value, a.value - a.low)
    return Interval(value, low, high, min(a.level, b.level), "Newcombe")


def _difference(first: Verdict | None, later: Verdict | None) -> tuple[Interval | None, str]:
    if first is None or later is None:
        return None, "not measured"
    found = primary_difference(first, later)
    if found is None:
        return None, f"{first.primary.measure.word} against {later.primary.measure.word}, which is not compared"
    return found, f"{first.primary.measure.word} {text.change(replace(later.primary, change=found))}"


def _column(report: RunReport, label: str, names: Sequence[str], metrics: Sequence[str]) -> RunColumn:
    chosen = report.chosen
    verdict = chosen.verdict if chosen else None
    costs = tuple(
        text.cost(metric, chosen.costs[metric]) if chosen and metric in chosen.costs else "not known"
        for metric in metrics
    )
    policy = chosen.policy.name or "chosen policy" if chosen else "none chosen"
    told = []
    for name in names:
        figure = verdict.figures.get(name) if verdict else None
        told.append("not measured" if figure is None else text.interval(figure.measure, figure.value))
    change = text.change(verdict.primary) if verdict else "not measured"
    return RunColumn(label, policy, (*told[:1], *((change,) if names else ()), *told[1:]), costs)


def _bits(report: RunReport, name: str) -> str:
    if name not in report.sites or report.chosen is None:
        return MISSING if name not in report.sites else "none chosen"
    return text.bits(report.chosen.policy[name])


def labels(reports: Sequence[RunReport], names: Sequence[str] | None = None) -> tuple[str, ...]:
    """The given names or the titles, numbered where two are equal."""
    given = list(names) if names is not None else [report.title for report in reports]
    if len(given) != len(reports):
        raise InvalidInput(f"names must have one entry for each of the {len(reports)} runs, got {len(given)}")
    return tuple(f"{label} ({i})" if given.count(label) > 1 else label for i, label in enumerate(given, start=1))


def apart_sentence(found: Apart, first: str, later: str) -> str:
    """How two runs differ on the same inputs, in words."""
    one = found.case
    if one.rate is None:
        distance = text.interval(found.distance, one.distance)
        said = f"{later} against {first}, on the same {one.samples:,} inputs: {found.distance.label} {distance}"
    else:
        said = (
            f"{later} against {first}, on the same {one.samples:,} inputs: other decisions on "
            f"{text.percent_interval(one.rate)}"
        )
    if one.change is not None:
        shares = found.primary.unit == "share"
        change = text.points_interval(one.change) if shares else text.number_interval(one.change)
        said += f"; {found.primary.words} {change}, paired"
    if one.lost is not None and one.gained is not None:
        said += f"; {one.lost:,} right in {first} alone, {one.gained:,} in {later} alone"
    return f"{said}."


def _headings(measures: Mapping[str, Measure]) -> tuple[str, ...]:
    labels = [f"{m.label} ({m.unit})" if m.unit not in ("", "share") else m.label for m in measures.values()]
    return (labels[0], "Change against float", *labels[1:]) if labels else ()


def compare_panel(reports: Sequence[RunReport], names: Sequence[str] | None = None) -> ComparePanel:
    """Two or more runs side by side; differences are against the first."""
    if len(reports) < 2:
        raise InvalidInput(f"compare needs at least 2 runs, got {len(reports)}")
    titles = labels(reports, names)
    metrics = tuple(dict.fromkeys(m for r in reports if r.chosen for m in r.chosen.costs))
    sites = list(dict.fromkeys(name for report in reports for name in report.sites.names))
    kinds = {site.name: site.kind for report in reports for site in report.sites}
    rows = [ComparedSite(name, kinds[name], tuple(_bits(report, name) for report in reports)) for name in sites]
    differences = []
    first = reports[0].chosen
    for i in range(1, len(reports)):
        later = reports[i].chosen
        found = _difference(first.verdict if first else None, later.verdict if later else None)
        differences.append(
            Difference(
                titles[i],
                *found,
                sum(row.bits[0] != row.bits[i] for row in rows),
                tuple(
                    (text.metric_name(m), later.costs[m] / first.costs[m])
                    for m in metrics
                    if first is not None and later is not None and m in later.costs and first.costs.get(m)
                ),
            )
        )
    verdicts = [report.chosen.verdict for report in reports if report.chosen and report.chosen.verdict]
    names_of = {f.measure.name: f.measure for v in verdicts for f in (v.primary, *others(v))}
    changed = tuple(row for row in rows if len(set(row.bits)) > 1)
    note = (
        "Differences between runs carry 95% Newcombe intervals for independent inputs; "
        "where the networks can be run on the same inputs, the paired interval that is told with them is narrower."
    )
    return ComparePanel(
        tuple(_column(report, title, list(names_of), metrics) for report, title in zip(reports, titles, strict=True)),
        _headings(names_of),
        tuple(text.metric_name(m) for m in metrics),
        tuple(differences),
        changed,
        len(rows) - len(changed),
        note,
    )
