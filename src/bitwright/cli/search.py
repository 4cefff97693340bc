"""``bitwright search``: the Pareto front, or the best policy for each budget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from bitwright.cli.options import BASICS, CALIBRATION, MEASURING, SCORING, SEARCHING, takes_job

if TYPE_CHECKING:
    from bitwright.cli.job import Job


NoMeasure = Annotated[
    bool, typer.Option("--no-measure", help="Search by the predicted harm alone; the result can be worse than uniform.")
]


@takes_job(*BASICS, *SEARCHING, *MEASURING, *SCORING, *CALIBRATION)
def search(job: Job, no_measure: NoMeasure = False) -> None:
    """Find the best policies: the whole Pareto front, or one for each --budget.

    The candidates and the uniform policies within each budget are measured on held-out calibration samples, predictions
    are corrected by what was measured, and the best one measured is taken. Writes the front, and with a budget the
    first candidate's policy.

    \b
    Examples:
      bitwright search --model mynet:build --data cifar10:data/cifar10
      bitwright search --job bitwright.toml --budget bops=W4A4 --pin 'fc*=8'
      bitwright search --job bitwright.toml --budget size=250KB,bops=30%
    """
    from rich.console import Console

    from bitwright.cli.load import work
    from bitwright.cost import costs_for
    from bitwright.flow import constraints, gave_way, made_for, score
    from bitwright.report.panels_front import course_notes
    from bitwright.report.terminal import front_table
    from bitwright.session.search import search as find
    from bitwright.store import folder as files

    with work(job) as (session, store):
        sites = session.sites
        tables = score(session, made_for(job.method))
        with session.steps.step("search"):
            front = find(
                sites,
                tables,
                measure=None if no_measure else session.measure,
                cost=job.cost,
                budgets=job.budget or None,
                points=job.points,
                rounds=job.rounds,
                evaluations=job.evaluations,
                minutes=job.minutes,
                seed=job.seed,
                constraints=constraints(job.settings()),
                costs=costs_for(job.runtime),
            )
        with store.results("search") as folder:
            front.save(folder / files.FRONT)
            if job.budget:
                front[0].policy.save(folder / files.POLICY)
    console = Console(highlight=False)
    console.print(front_table(front, sites))
    for note in (*gave_way((job.method,), tables), *tables[0].distrust, *course_notes(front)):
        console.print(note)
    for candidate in front if job.budget else ():
        used = ", ".join(f"{100 * share:.1f}% of {metric} used" for metric, share in candidate.used.items())
        proof = "proven optimal" if candidate.optimal else f"within {100 * candidate.gap:.2g}% of the optimum"
        console.print(f"{candidate.policy.name}: {used}; {front.basis}; {proof} for the predicted harm")
    console.print(f"{job.output / files.FRONT}: every policy site by site")
    if job.budget:
        console.print(f"{job.output / files.POLICY}: the policy for {job.budget[0]}, {front.basis}")
