"""The debugging flow on the terminal, one step at a time, legible at 80 columns."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from bitwright.report import format as text
from bitwright.report.panels_debug import debug_panel, measured_row
from bitwright.values.findings import Findings, Measurement, Step

_STYLES = {"done": "bold", "skipped": "dim", "failed": "bold red"}
MOST_ROWS = 8


def step_lines(step: Step) -> RenderableType:
    """A step: what it asked, measured, concluded, and what it cost."""
    head = Text(f"{step.number}. {step.title}", style=_STYLES[step.status])
    if step.status == "skipped":
        return Group(Text(f"{step.number}. {step.title} Skipped: {step.conclusion}", style="dim"), Text(""))
    lines: list[RenderableType] = [head]
    rows = _most_telling(step.measured)
    lines += [_indented(_row(row, step), 5, style="green" if row.kept else "") for row in rows]
    if len(rows) < len(step.measured):
        lines.append(_indented(f"... {len(step.measured) - len(rows)} more", 5, style="dim"))
    lines.append(_indented(step.conclusion, 3))
    lines.append(_indented(f"{text.duration(step.seconds)}, {step.passes:,.0f} float passes", 3, style="dim"))
    return Group(*lines, Text(""))


def _indented(line: str, columns: int, style: str = "") -> RenderableType:
    return Padding(Text(line, style=style), (0, 0, 0, columns))


def _most_telling(rows: tuple[Measurement, ...]) -> list[Measurement]:
    """All rows, or what was kept and the first ones of the others, in their order."""
    if len(rows) <= MOST_ROWS:
        return list(rows)
    kept = [i for i, row in enumerate(rows) if row.kept]
    others = [i for i, row in enumerate(rows) if not row.kept][: max(MOST_ROWS - len(kept), 2)]
    return [rows[i] for i in sorted(kept + others)]


def _row(row: Measurement, step: Step) -> str:
    shown = measured_row(row)
    named = {f"{step.measure.word} ": shown.distance, "agreement ": shown.agreement}
    cells = [f"{name}{cell}" for name, cell in named.items() if cell != "–"]
    cells += [cell for cell in (shown.kept, shown.note) if cell not in ("–", "")]
    return f"{row.label}: {', '.join(cells)}" if cells else row.label


def findings_lines(findings: Findings) -> RenderableType:
    """The recommendation, the recipe's actions and the cost of the whole flow."""
    panel = debug_panel(findings)
    style = "bold green" if findings.outcome == "holds" else "bold dark_orange3"
    lines: list[RenderableType] = [Text(findings.recommendation, style=style)]
    lines += [Text(f"  {i}. {action}") for i, action in enumerate(findings.recipe.actions, start=1)]
    lines += [Text(note, style="dim") for note in findings.notes]
    lines.append(Text(f"The whole flow: {panel.cost}.", style="dim"))
    return Group(*lines)
