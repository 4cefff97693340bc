"""The report's panels on the terminal: functions from values to Rich renderables, legible at 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from bitwright.report import format as text
from bitwright.report.compare import compare_panel
from bitwright.report.panels import FiguresPanel, figures_panel, headline, start_width, target_line
from bitwright.report.panels_front import front_panel
from bitwright.report.panels_runtime import latency_panel, parity_panel
from bitwright.report.run_report import Measured, RunReport
from bitwright.values import Front, Latency, Parity, SensitivityTable, Sites

WIDTH = 80
_LABEL = 13
_BAR = 16
_Column = tuple[str, tuple[str, ...]]
"""Heading and cells."""
_KIND_STYLE = {"weight": "blue", "activation": "dark_orange3"}
_MARKS = {"chosen": "*", "alternative": "+"}
_BLOCKS = " ▏▎▍▌▋▊▉█"


def plain_table(title: str, caption: str = "") -> Table:
    """An empty table with a title above it and a caption below."""
    return Table(
        title=Text(title) if title else None,
        caption=Text(caption) if caption else None,
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
        title_style="bold",
        caption_style="dim",
        pad_edge=False,
        padding=(0, 1),
    )


def _bar(share: float) -> str:
    """A bar of ``share`` (0 to 1) of the full width, to an eighth of a character."""
    eighths = round(max(0.0, min(1.0, share)) * _BAR * 8)
    rest = _BLOCKS[eighths % 8] if eighths % 8 else ""
    return ("█" * (eighths // 8) + rest).ljust(_BAR)


def _figures_table(panel: FiguresPanel, columns: Sequence[_Column], title: str) -> Table:
    table = plain_table(title, panel.intervals if title else "")
    table.add_column("Policy", min_width=5, overflow="fold")
    for heading, _ in columns:
        table.add_column(Text(heading), justify="right", no_wrap=True)
    for number, row in enumerate(panel.rows):
        label = Text(f"{row.label} {_MARKS[row.role]}" if row.role in _MARKS else row.label)
        cells = (Text(values[number].replace("–", "-")) for _, values in columns)
        table.add_row(label, *cells, style="bold" if row.role == "chosen" else "")
    return table


def _width(table: Table) -> int:
    """Characters that a table takes when nothing is cut and the names of policies are folded to a legible width."""
    table.columns[0].max_width = _LABEL
    console = Console(width=1000)
    return Measurement.get(console, console.options, table).maximum


def verdict_table(report: RunReport) -> RenderableType:
    """Float and all policies: the figures of the task with intervals, and the costs."""
    panel = figures_panel(report)
    shown = panel.cost_metrics
    cells = [
        (heading, tuple(row.cells[i] if i < len(row.cells) else "–" for row in panel.rows))
        for i, heading in enumerate(panel.headings)
    ]
    costs: list[_Column] = []
    for metric in shown:
        values = tuple(text.cost(metric, row.costs[metric]) if metric in row.costs else "–" for row in panel.rows)
        costs.append((text.metric_name(metric).removesuffix(" per input"), values))
    # The primary figure, its change and two costs, then two figures at a time, then further costs. What does not fit
    # moves on into the next table: a cut number, or a cut unit, is another one.
    groups = [[*cells[:2], *costs[:2]], *(cells[i : i + 2] for i in range(2, len(cells), 2))]
    groups = [*groups[:-1], [*groups[-1], *costs[2:]]]
    parts: list[RenderableType] = []
    while groups:
        columns = groups.pop(0)
        left: list[_Column] = []
        while len(columns) > 1 and _width(_figures_table(panel, columns, "")) > WIDTH:
            left.insert(0, columns.pop())
        parts.append(_figures_table(panel, columns, "" if parts else "Figures"))
        if left:
            groups[:1] = [left + (groups[0] if groups else [])]
    marks = ["* the chosen policy"] if report.chosen else []
    marks += ["+ chosen for another budget"] if report.alternatives else []
    parts += [Text(", ".join(marks), style="dim")] if marks else []
    return Group(*parts)


def front_table(
    front: Front, sites: Sites, baselines: Sequence[Measured] = (), chosen: Measured | None = None
) -> RenderableType:
    """The Pareto front: cost, prediction and what was measured of each policy, the chosen one starred."""
    panel = front_panel(front, sites, baselines, chosen)
    done = f"{panel.measured_points} measured" if panel.measured_points else "Predicted alone: nothing was measured"
    table = plain_table("Pareto front", f"Predicted by {panel.method}: {panel.unit}. {done}.")
    table.add_column("Policy", overflow="fold", min_width=6)
    table.add_column(panel.axis.replace(" per input", ""), justify="right", no_wrap=True)
    table.add_column("Predicted", justify="right", no_wrap=True)
    first = panel.measures[0].heading if panel.measures else "Measured"
    table.add_column(Text(first), justify="right", no_wrap=True)
    table.add_column("Change, points" if first.endswith("%") else "Change", justify="right", no_wrap=True)
    for point in panel.points:
        figure = point.verdict.primary if point.verdict else None
        predicted = "-" if point.predicted is None else text.predicted(point.predicted, panel.unit)
        table.add_row(
            Text(f"{point.label} *" if point.role == "chosen" else point.label),
            text.significant(point.cost / panel.divisor),
            predicted,
            Text(text.interval(figure.measure, figure.value, unit=False) if figure else "not measured"),
            Text(text.change(figure, unit=False) if figure else "-"),
            style={"chosen": "bold", "baseline": "dark_orange3"}.get(point.role, ""),
        )
    if any(point.role == "chosen" for point in panel.points):
        return Group(table, Text("* the chosen policy", style="dim"))
    return table


def sensitivity_table(
    table: SensitivityTable, bits: int | None = None, top: int | None = 15, sites: Sites | None = None
) -> RenderableType:
    """Sites by predicted harm, worst first, with bars and standard errors.

    Args:
        table: of any method.
        bits: the width; by default 4 where the table has it, otherwise the middle one.
        top: how many sites to list; None for all.
        sites: tells weights from activations when given.
    """
    width = start_width(table.bits) if bits is None else bits
    ranked, column = table.ranking(width), table.column(width)
    shown = ranked[:top]
    left = f" {len(ranked) - len(shown)} more sites are less sensitive." if len(shown) < len(ranked) else ""
    note = f"Harm: {table.unit}, over {table.samples:,} inputs.{left}"
    drawn = plain_table(f"Sensitivity at {width} bits by {table.method}, worst first", " ".join([note, *table.notes]))
    drawn.add_column("#", justify="right")
    drawn.add_column("Site", overflow="fold", ratio=1)
    drawn.add_column("", no_wrap=True, width=_BAR)
    drawn.add_column("Harm", justify="right", no_wrap=True)
    if table.doubts:
        drawn.add_column("Not trusted", overflow="fold")
    worst = max((harm for _, harm in ranked), default=0.0) or 1.0
    for rank, (site, value) in enumerate(shown, start=1):
        harm = text.significant(value)
        if table.standard_error is not None:
            harm += f" ± {text.significant(float(table.standard_error[table.row(site), column]), 2)}"
        style = _KIND_STYLE[sites[site].kind] if sites is not None and site in sites else ""
        doubt = (table.doubts.get(site, ""),) if table.doubts else ()
        drawn.add_row(str(rank), Text(site), Text(_bar(value / worst), style=style), harm, *doubt)
    return drawn


def parity_lines(parity: Parity) -> RenderableType:
    """The exported file against the simulation, in sentences."""
    panel = parity_panel(parity)
    lines = [panel.sentence]
    lines += [f"Optimisations {row.optimisations}: largest difference {row.difference}." for row in panel.rows]
    if panel.figure:
        lines.append(f"{panel.label} of the file in the runtime: {panel.figure}.")
    return Text("\n".join(lines))


def latency_lines(latency: Sequence[Latency]) -> RenderableType:
    """Times against float, with the operations that did not run in integers."""
    panel = latency_panel(latency)
    if not panel.rows:
        return Text("Latency was not measured.")
    lines = [panel.sentence]
    lines += [
        f"Batch {one.batch}: median {text.duration(one.float_seconds)} in float, "
        f"{text.duration(one.seconds)} quantized."
        for one in latency
    ]
    if panel.unfused:
        lines.append("Not in integers: " + ", ".join(panel.unfused))
    return Text("\n".join(lines), style="dark_orange3" if any(row.ratio > 1 for row in panel.rows) else "")


def summary(report: RunReport) -> RenderableType:
    """The run on one screen: the headline, the figures, parity and latency where they were measured."""
    target = target_line(report)
    said = [Text(target, style="bold" if report.outcome == "holds" else "bold dark_orange3")] if target else []
    left_out = report.sites.coverage.sentences()
    said += [Text(sentence, style="dark_orange3") for sentence in left_out]
    parts: list[RenderableType] = [Text(headline(report), style="bold"), *said, Text(""), verdict_table(report)]
    if report.parity:
        parts += [parity_lines(report.parity), Text("")]
    if report.latency:
        parts += [latency_lines(report.latency), Text("")]
    parts += [Text(f"- {note}") for note in (*report.export_notes, *report.notes) if note not in left_out]
    return Group(*parts)


def compare_table(reports: Sequence[RunReport], names: Sequence[str] | None = None) -> RenderableType:
    """Two or more runs side by side: figures, differences against the first, sites whose bits differ."""
    panel = compare_panel(reports, names)
    figures = plain_table("Figures of the chosen policies")
    figures.add_column("", no_wrap=True)
    for column in panel.columns:
        figures.add_column(Text(column.label), overflow="fold")
    figures.add_row("Policy", *(Text(column.policy) for column in panel.columns))
    for i, heading in enumerate(panel.headings):
        figures.add_row(Text(heading), *(Text(column.figures[i]) for column in panel.columns))
    for i, cost in enumerate(panel.cost_names):
        figures.add_row(Text(cost), *(Text(column.costs[i]) for column in panel.columns))
    lines = []
    for item in panel.differences:
        ratios = "".join(f", {name} times {ratio:.2f}" for name, ratio in item.costs)
        lines.append(
            f"{item.label} against {panel.columns[0].label}: {item.change}{ratios}, "
            f"{item.changed_sites} sites with other bits"
        )
    parts: list[RenderableType] = [figures, Text("\n".join(lines)), Text(panel.note, style="dim"), Text("")]
    if panel.changed:
        sites = plain_table("Bits that differ", f"{panel.unchanged} more sites have the same bits in all runs.")
        sites.add_column("Site", overflow="fold", ratio=1)
        for column in panel.columns:
            sites.add_column(Text(column.label), justify="right", overflow="fold")
        for row in panel.changed:
            sites.add_row(Text(row.name), *(Text(bits) for bits in row.bits))
        parts.append(sites)
    else:
        parts.append(Text(f"All {panel.unchanged} sites have the same bits in all runs."))
    return Group(*parts)
