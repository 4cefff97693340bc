"""``bitwright evaluate``: a policy against the float model on the evaluation data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bitwright.cli.options import BASICS, CALIBRATION, AsJson, PolicyFile, RecipeFile, takes_job

if TYPE_CHECKING:
    from bitwright.cli.job import Job


@takes_job(*BASICS, *CALIBRATION)
def evaluate(job: Job, policy: PolicyFile = None, recipe: RecipeFile = None, as_json: AsJson = False) -> None:
    """Measure a policy, or a recipe with its repairs, against the float model.

    On the evaluation data: the figures of the task, each with its interval; accuracy, agreement, KL and loss for
    classification.

    \b
    Examples:
      bitwright evaluate --model mynet:build --data mydata:load --policy W4A8
      bitwright evaluate --job bitwright.toml --policy out/policy.json
      bitwright evaluate --job bitwright.toml --recipe out/recipe.json
    """
    from rich.console import Console

    from bitwright.cli.load import load_target, work
    from bitwright.cost import costs_for, costs_of
    from bitwright.report import Measured, RunReport
    from bitwright.report.terminal import verdict_table
    from bitwright.values import FLOAT

    with work(job) as session:
        sites = session.sites
        chosen, under = load_target(session, policy, recipe, job.output)
        with session.steps.step("evaluate"):
            verdict = under.measure(chosen, on="evaluation")
    if as_json:
        print(verdict.to_json(), end="")
        return
    models = costs_for(job.runtime)
    measured = Measured(chosen, costs_of(chosen, sites, models), verdict)
    report = RunReport(job.model, sites, float_costs=costs_of(FLOAT, sites, models), chosen=measured)
    console = Console(highlight=False)
    console.print(verdict_table(report))
