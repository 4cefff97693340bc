"""``bitwright sensitivity``: which sites suffer most."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from bitwright.cli.options import BASICS, CALIBRATION, SCORING, takes_job

if TYPE_CHECKING:
    from bitwright.cli.job import Job

At = Annotated[int | None, typer.Option("--at", metavar="BITS", help="The width of the ranking. [default: 4]")]
Top = Annotated[int, typer.Option("--top", metavar="N", help="Sites to show; 0 shows all.")]


@takes_job(*BASICS, *SCORING, *CALIBRATION)
def sensitivity(job: Job, at: At = None, top: Top = 15) -> None:
    """Rank the sites by the harm of quantizing them.

    Margin-FIT predicts the share of predictions that flip; FIT follows Zandonati et al. (ICLR 2023).

    \b
    Examples:
      bitwright sensitivity --model mynet:build --data cifar10:data/cifar10
      bitwright sensitivity --job bitwright.toml --method fit --at 3 --top 0
    """
    from rich.console import Console

    from bitwright.cli.load import work
    from bitwright.flow import gave_way, made_for, score, write_tables
    from bitwright.report.terminal import sensitivity_table
    from bitwright.store import folder as files

    with work(job) as (session, store):
        tables = score(session, methods := made_for(job.method))
        with store.results("sensitivity") as folder:
            write_tables(folder, tables)
    console = Console(highlight=False)
    console.print(sensitivity_table(tables[0], at, top or None, session.sites))
    for note in gave_way(methods, tables):
        console.print(note)
    console.print(
        f"{job.output / files.SENSITIVITY_CSV}: every site at every width, by {' and '.join(t.method for t in tables)}"
    )
