"""``bitwright sweep``: each quantizer alone on, and each alone off."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitwright.cli.options import BASICS, CALIBRATION, RecipeFile, policy_option, takes_job

if TYPE_CHECKING:
    from rich.console import RenderableType

    from bitwright.cli.job import Job
    from bitwright.report.panels_sweep import SweepPanel

PolicyFile = Annotated[str | None, policy_option("W8A8")]
Blocks = Annotated[
    int,
    typer.Option(
        "--blocks",
        metavar="DEPTH",
        help="Switch together sites that share the first DEPTH parts of their names. 0: one at a time.",
    ),
]
Top = Annotated[int, typer.Option("--top", metavar="N", help="Sites to show; 0 shows all.")]


@takes_job(*BASICS, *CALIBRATION)
def sweep(job: Job, policy: PolicyFile = None, recipe: RecipeFile = None, blocks: Blocks = 0, top: Top = 15) -> None:
    """Switch one quantizer at a time, and rank the sites by what that does to the output.

    Each alone on with everything else in float, and each alone off with everything else quantized, at the bits of the
    policy (with --recipe: after its repairs). One table, worst first by distance to float. Writes sweep.json and the
    page sweep.html to the output folder.

    \b
    Examples:
      bitwright sweep --model mynet:build --data mydata:load --policy W4A8
      bitwright sweep --job bitwright.toml --policy W4A8 --blocks 2
    """
    from rich.console import Console

    from bitwright.cli.load import load_target, work
    from bitwright.cli.run import title
    from bitwright.report.panels_sweep import sweep_panel
    from bitwright.report.render import render_sweep
    from bitwright.sensitivity import blocks as grouped
    from bitwright.sensitivity import sweep as switch
    from bitwright.store import folder as files
    from bitwright.store import write_atomically
    from bitwright.values import FLOAT, Policy
    from bitwright.values.json import lines
    from bitwright.values.sweep import Sweep

    with work(job) as (session, store):
        chosen, under = load_target(session, policy, recipe, job.output, "W8A8")
        sites = None if blocks == 0 else grouped(under.graph.sites, blocks)
        batches = under.batches("calibration")

        def measured(name: str, bits: Policy | tuple[None], base: Policy) -> Sweep:
            def compute() -> dict[str, Any]:
                with session.steps.step(f"each {name}", batches.samples) as tell:
                    made = switch(under.graph, batches, bits, base=base, sites=sites, task=under.task, progress=tell)
                    return made.to_dict()

            return Sweep.from_dict(under.remember("sweep", compute, name=name, policy=chosen, blocks=blocks))

        on, off = measured("alone on", chosen, FLOAT), measured("alone off", (None,), chosen)
        data = {"alone on": on.to_dict(), "alone off": off.to_dict()}
        with store.results("sweep") as folder:
            write_atomically(folder / files.SWEEP, lines(data) + "\n")
            write_atomically(folder / files.SWEEP_PAGE, render_sweep(on, off, f"{title(job)} at {chosen.name}"))
    Console(highlight=False).print(table(sweep_panel(on, off), top or None))
    print(f"{job.output / files.SWEEP_PAGE}: every site; {job.output / files.SWEEP}: the same as data")


def table(panel: SweepPanel, top: int | None) -> RenderableType:
    """The worst sites as a table for the terminal."""
    from rich.console import Group
    from rich.text import Text

    from bitwright.report.terminal import plain_table

    drawn = plain_table("")
    drawn.add_column("Site", overflow="fold", min_width=16)
    for name in ("Bits", "Alone on", *panel.headings[:1], "Falls by"):
        drawn.add_column(name, justify="right", no_wrap=True)
    for row in panel.rows[:top]:
        drawn.add_row(*(Text(cell) for cell in (row.site, row.width, row.distance, *row.figures[:1], row.gain)))
    rest = len(panel.rows) - len(panel.rows[:top])
    more = [Text(f"... {rest} more", style="dim")] if rest else []
    said = f"{panel.distance}. Alone on: this one quantized. Falls by: this one in float, all others quantized."
    more.append(Text(said, style="dim"))
    return Group(Text(panel.sentence, style="bold"), drawn, *more, *(Text(note, style="dim") for note in panel.notes))
