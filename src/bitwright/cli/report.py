"""``bitwright report``: write a run's HTML report again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Folder = Annotated[Path, typer.Argument(metavar="[DIR]", help="The output folder of a run.")]
To = Annotated[Path | None, typer.Option("--to", metavar="FILE", help="Where to write. [default: DIR/report.html]")]


def report(folder: Folder = Path("bitwright-out"), to: To = None) -> None:
    """Write the HTML report of a finished run again.

    Measures nothing: everything comes from the run's report.json.

    \b
    Examples:
      bitwright report
      bitwright report out/resnet20 --to resnet20.html
    """
    from bitwright.cli.reports import read_report
    from bitwright.report import render
    from bitwright.store import folder as files
    from bitwright.store import write_atomically

    path = to if to is not None else folder / files.REPORT
    write_atomically(path, render(read_report(folder)))
    print(path)
