"""``bitwright compare``: finished runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
    from rich.console import Console

    from bitwright.cli.reports import read_report
    from bitwright.report import render_compare
    from bitwright.report.terminal import compare_table
    from bitwright.store import write_atomically

    reports = [read_report(folder) for folder in folders]
    names = [str(folder) for folder in folders]
    Console(highlight=False).print(compare_table(reports, names))
    if to is not None:
        write_atomically(to, render_compare(reports, names))
        print(f"\n{to}")
