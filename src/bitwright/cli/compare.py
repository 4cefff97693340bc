"""``bitwright compare``: finished runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from bitwright.report import ComparePanel

Folders = Annotated[list[Path], typer.Argument(metavar="DIR DIR...", help="The output folders of two or more runs.")]
To = Annotated[Path | None, typer.Option("--to", metavar="FILE", help="Write an HTML page as well.")]


def compare(folders: Folders, to: To = None) -> None:
    """Show finished runs side by side.

    Accuracies with their intervals, costs, and the sites whose bits differ.

    \b
    Examples:
      bitwright compare out/w4a4 out/w4a8
      bitwright compare out/w4a4 out/w4a8 --to compare.html
    """
    from bitwright.cli.reports import read_report
    from bitwright.report import compare_panel, render_compare
    from bitwright.store import write_atomically

    reports = [read_report(folder) for folder in folders]
    names = [str(folder) for folder in folders]
    print(as_text(compare_panel(reports, names)))
    if to is not None:
        write_atomically(to, render_compare(reports, names))
        print(f"\n{to}")


def as_text(panel: ComparePanel) -> str:
    """The comparison for a terminal."""
    head = ["run", "policy", "accuracy", "change to float", "agreement", "KL to float", *panel.cost_names]
    rows = [head] + [[c.label, c.policy, c.accuracy, c.change, c.agreement, c.kl, *c.costs] for c in panel.columns]
    lines = _table([list(column) for column in zip(*rows, strict=True)])
    for difference in panel.differences:
        accuracy = "not measured"
        if difference.accuracy is not None:
            a = difference.accuracy
            accuracy = f"{100 * a.value:+.2f} points [{100 * a.low:+.2f}, {100 * a.high:+.2f}]"
        costs = "".join(f", {name} x {ratio:.3g}" for name, ratio in difference.costs)
        lines.append(
            f"{difference.label} against {panel.columns[0].label}: accuracy {accuracy}{costs}, "
            f"{difference.changed_sites} sites with other bits"
        )
    lines += ["", panel.note]
    if panel.changed:
        sites = [["site", *(column.label for column in panel.columns)], *([s.name, *s.bits] for s in panel.changed)]
        lines += ["", *_table(sites), f"({panel.unchanged} more sites have the same bits in all runs)"]
    return "\n".join(lines)


def _table(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
