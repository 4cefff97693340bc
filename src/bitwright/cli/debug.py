"""``bitwright debug``: why a quantized network is bad, and what mends it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitwright.cli.guard import EXIT_OUTCOMES
from bitwright.cli.options import BASICS, CALIBRATION, RecipeFile, takes_job
from bitwright.settings import split_names

if TYPE_CHECKING:
    from bitwright.cli.job import Job
    from bitwright.values.recipe import Recipe

Target = Annotated[
    str, typer.Option("--policy", metavar="POLICY", help="The policy to reach: a policy file, or e.g. W4A8.")
]
StartAt = Annotated[int, typer.Option("--start-at", metavar="STEP", help="The step to begin with, 1 to 8.")]
Repairs = Annotated[
    str | None,
    typer.Option(
        "--repairs",
        metavar="LIST",
        help="Repairs that steps 3, 4 and 8 may use, e.g. cle,bias,gptq, or none. [default: all of them]",
    ),
]


@takes_job(*BASICS, "target_drop", *CALIBRATION)
def debug(
    job: Job,
    policy: Target = "W8A8",
    recipe: RecipeFile = None,
    start_at: StartAt = 1,
    repairs: Repairs = None,
) -> None:
    """Find out why a quantized network is bad, and mend it.

    Eight steps, each with what it measured, concluded and changed, until the target holds. Choices are made on
    calibration data, by the distance to float; the evaluation data only says whether the target holds. Writes
    recipe.json, findings.json and the page debug.html to the output folder. Stop it with Ctrl-C; the same command goes
    on from there.

    The target is judged by the interval of the points that are lost. Exit code: 0 when it holds (the whole interval is
    within the target), 3 when that is undecided, 4 when it does not hold (the whole interval is beyond it); 2 for bad
    input, 1 for an unforeseen error.

    \b
    Examples:
      bitwright debug --model mynet:build --data mydata:load --policy W8A8 --target-drop 0.5
      bitwright debug --job bitwright.toml --policy W4A8 --start-at 5 --recipe out/recipe.json
    """
    from rich.console import Console
    from torch import nn

    from bitwright.cli.load import load_data, load_model, load_policy, load_recipe, opened
    from bitwright.cli.progress import ProgressBars
    from bitwright.cli.run import title
    from bitwright.debug import debug as flow
    from bitwright.report.render import render_debug
    from bitwright.report.terminal_debug import findings_lines, step_lines
    from bitwright.session import Session, Steps
    from bitwright.store import folder as files
    from bitwright.store import write_atomically

    console = Console(highlight=False)
    chosen = None if repairs is None else tuple(split_names(repairs))
    begin: Recipe | None = load_recipe(recipe) if recipe is not None else None
    with opened(job) as store:
        model = load_model(job)
        with ProgressBars() as bars:
            session = Session.open(model, load_data(job), job.settings(), store, Steps(bars))
        session.steps = Steps()  # each step of the flow is shown when it is done
        findings = flow(
            session,
            target_drop=job.drop,
            policy=load_policy(policy, job.output, session.sites),
            model=model if isinstance(model, nn.Module) else None,
            repairs=chosen,
            start_at=start_at,
            recipe=begin,
            on_step=lambda step: console.print(step_lines(step)),
        )
        page = render_debug(findings, f"Debugging {title(job)}", applying(job, job.output / files.RECIPE))
        with store.results("debug") as folder:
            findings.save(folder / files.FINDINGS)
            fitted = findings.recipe.save(folder / files.RECIPE)
            write_atomically(folder / files.FINDINGS_PAGE, page)
    console.print(findings_lines(findings))
    print(f"\nFiles in {job.output}:")
    print(f"  {files.FINDINGS_PAGE:<22}the flow: open it in a browser")
    print(f"  {files.RECIPE:<22}policy, repairs and ranges")
    if fitted is not None:
        print(f"  {fitted.name:<22}what was fitted for it: keep the two together")
    print(f"  {files.FINDINGS:<22}every figure as data")
    print(f"\nTo apply the recipe and write the file for the runtime:\n  {applying(job, job.output / files.RECIPE)}")
    raise typer.Exit(EXIT_OUTCOMES[findings.outcome])


def applying(job: Job, recipe: Path) -> str:
    """The command that applies a recipe to the job's model and exports it."""
    from bitwright.cli.closing import program

    names = ("model", "weights", "data", "task", "quantizer", "returns", "calibration_samples")
    given = {name: getattr(job, name) for name in names}
    default = {name: field.default for name, field in type(job).model_fields.items()}
    words = [program(), "export", "--recipe", str(recipe), *(["--trust"] if job.trust else [])]
    for name, value in given.items():
        if value is not None and value != default[name]:
            words += [f"--{name.replace('_', '-')}", ",".join(value) if isinstance(value, tuple) else str(value)]
    return shlex.join([*words, "--output", str(job.output)])
