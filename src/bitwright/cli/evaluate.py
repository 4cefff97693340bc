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
    from bitwright.cli.reports import figures_of

    with work(job) as (session, _):
        sites = session.sites
        chosen, under = load_target(session, policy, recipe, job.output)
        with session.steps.step("evaluate"):
            verdict = under.measure(chosen, on="evaluation")
    if as_json:
        print(verdict.to_json(), end="")
        return
    Console(highlight=False).print(figures_of([(chosen, verdict)], sites, job.runtime))
