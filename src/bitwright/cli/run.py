"""``bitwright run``: the main job."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING

import typer

from bitwright.cli.guard import EXIT_OUTCOMES
from bitwright.cli.options import BASICS, CALIBRATION, MEASURING, SCORING, SEARCHING, RecipeFile, takes_job

if TYPE_CHECKING:
    from bitwright.cli.job import Job


RUNNING = ("target_drop", "repairs", "runtime")


@takes_job(*BASICS, *SEARCHING, *MEASURING, *RUNNING, *SCORING, *CALIBRATION)
def run(job: Job, recipe: RecipeFile = None) -> None:
    """From a model and a budget to a quantized file and a report.

    Ranks the sensitive tensors, searches the Pareto front, measures its candidates on held-out calibration data,
    chooses a policy, measures it against the float model on the evaluation data, exports it to ONNX, runs the file in
    ONNX Runtime, and writes an HTML report. Stop it with Ctrl-C; the same command goes on from there.

    With --target-drop it also tries repairs, and takes the cheapest policy that holds the target with one of them. The
    target is points of accuracy. To choose, it counts the predictions that differ from float's on held-out calibration
    data, since accuracy can fall by no more than their share; then it judges the chosen policy by the interval of the
    points that are lost on the evaluation data. Exit code: 0 when the target holds (the whole interval is within it),
    3 when that is undecided, 4 when it does not hold; 2 for bad input, 1 for an unforeseen error.

    With --recipe it takes the recipe's policy and repairs, e.g. those that bitwright debug found.

    \b
    Examples:
      bitwright run --model mynet:build --data mydata:load --budget bops=W4A4
      bitwright run --model bitwright.zoo:resnet20 --weights net.safetensors \\
          --data cifar10:data --budget size=60%,bops=30% --output out
      bitwright run --job bitwright.toml --target-drop 1
      bitwright run --job bitwright.toml --recipe out/recipe.json
    """
    from bitwright.cli.load import load_data, load_model

    job.require("model", "data")
    main_job(job, load_model(job), load_data(job), command=called(), recipe=recipe)


def main_job(job: Job, model: object, data: object, command: str, recipe: str | None = None) -> None:
    """Run the main job under progress bars and print its summary."""
    from rich.console import Console

    from bitwright.cli.closing import closing, opening
    from bitwright.cli.load import load_recipe
    from bitwright.cli.progress import ProgressBars
    from bitwright.flow import Asked
    from bitwright.flow import run as flow
    from bitwright.report.terminal import summary

    wanted = None if recipe is None else load_recipe(recipe)

    def job_file(placement: str) -> tuple[str, str]:  # with the placement, so that other commands find the same sites
        taken = job.model_copy(update={"quantizer": placement or job.quantizer})
        return taken.anchored().to_toml(), taken.to_toml()  # others need not know where on this machine it was

    asked = Asked(title(job), settings=job.echo(), command=command, job_file=job_file)
    console = Console(highlight=False)
    console.print(opening(job) if recipe is None else f"Asked: apply the recipe {recipe}.")
    with ProgressBars() as bars:
        report = flow(model, data, job.output, job.settings(), asked, bars, wanted)  # type: ignore[arg-type]
    console.print()
    console.print(summary(report))
    console.print(closing(report, job), soft_wrap=True)
    if report.outcome is not None:
        raise typer.Exit(EXIT_OUTCOMES[report.outcome])


def title(job: Job) -> str:
    """What the report is called: the model's factory, without its package."""
    return job.model.rpartition(":")[2].removesuffix(".pt2") or "model"


def called() -> str:
    """The command line that was given."""
    return f"bitwright {shlex.join(sys.argv[1:])}"
