"""``bitwright search``: the Pareto front, or the best policy for each budget, by prediction alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bitwright.cli.options import BASICS, CALIBRATION, SCORING, SEARCHING, takes_job

if TYPE_CHECKING:
    from bitwright.cli.job import Job


@takes_job(*BASICS, *SEARCHING, *SCORING, *CALIBRATION)
def search(job: Job) -> None:
    """Find the policies with the smallest predicted harm.

    The whole Pareto front, or the best policy for each --budget. Nothing is measured: `bitwright run` measures the
    candidates and corrects the prediction. Writes the front, and with a budget the first candidate's policy.

    \b
    Examples:
      bitwright search --model mynet:build --data cifar10:data/cifar10
      bitwright search --job bitwright.toml --budget bops=W4A4 --pin 'fc*=8'
      bitwright search --job bitwright.toml --budget size=250KB,bops=30%
    """
    from rich.console import Console

    from bitwright.cli.load import work
    from bitwright.cost import costs_for
    from bitwright.flow import constraints, gave_way, score
    from bitwright.report.terminal import front_table
    from bitwright.search import search as find
    from bitwright.store import folder as files

    with work(job) as session:
        sites = session.sites
        table = score(session, (job.method,))[0]
        with session.steps.step("search"):
            front = find(
                sites,
                table,
                cost=job.cost,
                budgets=job.budget or None,
                points=job.points,
                constraints=constraints(job.settings()),
                costs=costs_for(job.runtime),
            )
        front.save(job.output / files.FRONT)
        if job.budget:
            front[0].policy.save(job.output / files.POLICY)
    console = Console(highlight=False)
    console.print(front_table(front, sites))
    for note in gave_way((job.method,), (table,)):
        console.print(note)
    for candidate in front if job.budget else ():
        used = ", ".join(f"{100 * share:.1f}% of {metric} used" for metric, share in candidate.used.items())
        proof = "proven optimal" if candidate.optimal else f"within {100 * candidate.gap:.2g}% of the optimum"
        console.print(f"{candidate.policy.name}: {used}; {proof} for the predicted harm")
    console.print(f"{job.output / files.FRONT}: every policy site by site")
    if job.budget:
        console.print(
            f"{job.output / files.POLICY}: the policy for {job.budget[0]}; measure it with `bitwright evaluate`"
        )
