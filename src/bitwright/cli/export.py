"""``bitwright export``: a policy as a file that a runtime executes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bitwright.cli.options import BASICS, CALIBRATION, PolicyFile, RecipeFile, takes_job

if TYPE_CHECKING:
    from bitwright.cli.job import Job


@takes_job(*BASICS, *CALIBRATION, "runtime")
def export(job: Job, policy: PolicyFile = None, recipe: RecipeFile = None) -> None:
    """Write a policy, or a recipe with its repairs, as a file for a runtime, and run it there.

    The file is compared with the simulation in its runtime, and timed against float there.

    \b
    Examples:
      bitwright export --model mynet:build --data mydata:load --policy W8A8
      bitwright export --job bitwright.toml --policy out/policy.json --output out
      bitwright export --job bitwright.toml --recipe out/recipe.json --output out
    """
    from rich.console import Console

    from bitwright.cli.load import load_target, work
    from bitwright.errors import InvalidJob
    from bitwright.flow import deliver
    from bitwright.registry import registry_of
    from bitwright.report.terminal import latency_lines, parity_lines

    if job.runtime == "none":
        raise InvalidJob("runtime is 'none', which exports nothing; take --runtime onnxruntime")
    registry_of("runtime")[job.runtime].require()
    with work(job) as (session, store):
        chosen, under = load_target(session, policy, recipe, job.output)
        with store.results("export") as folder:
            delivery = deliver(under, chosen, folder)
    console = Console(highlight=False)
    console.print(f"Written: {job.output / delivery.file}")
    if delivery.parity is not None:
        console.print(parity_lines(delivery.parity))
    console.print(latency_lines(delivery.latency))
    for note in delivery.notes:
        console.print(f"- {note}")
