"""``bitwright qat``: training a quantized network so that it does what the float network does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitwright.cli.options import BASICS, CALIBRATION, Augment, RecipeFile, policy_option, takes_job
from bitwright.settings import split_names

if TYPE_CHECKING:
    from rich.console import Console

    from bitwright.cli.job import Job
    from bitwright.flow.training import Training
    from bitwright.values import Sites

PolicyFile = Annotated[str | None, policy_option("policy.json of the output folder, where there is one, else W4A4")]
Epochs = Annotated[int, typer.Option("--epochs", metavar="N", min=1, help="Passes over the training data.")]
Rate = Annotated[
    float,
    typer.Option("--learning-rate", metavar="STEPS", help="The largest one, in grid steps for each optimizer step."),
]
Labels = Annotated[
    float, typer.Option("--labels", metavar="WEIGHT", help="Weight of the task's own loss beside the imitation.")
]
Steps = Annotated[
    bool, typer.Option("--learn-steps/--fixed-steps", help="Learn the steps of the grids, or keep calibrated ranges.")
]
Strategy = Annotated[
    str, typer.Option("--strategy", metavar="NAME", help="What a step does with a batch, e.g. mixup?alpha=0.4.")
]
Patience = Annotated[
    int | None,
    typer.Option("--patience", metavar="N", min=1, help="Stop after N epochs that are no better on held-out samples."),
]
Precision = Annotated[
    str, typer.Option("--precision", metavar="NAME", help="bf16: compute in bfloat16 where that is safe; or no.")
]
First = Annotated[
    str, typer.Option("--first", metavar="LIST", help="Repairs to start from; none for the plain network.")
]


@takes_job(*BASICS, *CALIBRATION, "holdout_samples")
def qat(
    job: Job,
    policy: PolicyFile = None,
    recipe: RecipeFile = None,
    first: First = "gptq",
    epochs: Epochs = 10,
    learning_rate: Rate = 0.005,
    labels: Labels = 0.0,
    learn_steps: Steps = True,
    augment: Augment = "",
    strategy: Strategy = "standard",
    patience: Patience = None,
    precision: Precision = "no",
) -> None:
    """Train a quantized network (QAT) so that it does what the float network does.

    Weights, biases and the steps of every grid are learned from the float network's outputs; targets are needed only
    with --labels. Training starts from repairs (--first, or those of --recipe), and uses all calibration data but the
    samples that are held out, which choose the epoch that is taken. The float weights stay as they are. Writes
    recipe.json, which bitwright run, evaluate and export apply with --recipe, beside it what was learned, and
    training.json with every figure and training.html with
    its curves. Stopped with Ctrl-C or killed, the same command goes on after the last epoch.

    \b
    Examples:
      bitwright qat --model mynet:build --data mydata:load --policy W4A4
      bitwright qat --job bitwright.toml --policy out/policy.json --epochs 20 --augment images
      bitwright qat --job bitwright.toml --recipe out/recipe.json --learning-rate 0.005
    """
    from rich.console import Console

    from bitwright.cli.load import begin_with, plain_recipe, tell_files, work
    from bitwright.cli.repair import actions
    from bitwright.cli.run import title
    from bitwright.flow.repairing import check_repairs
    from bitwright.flow.training import train_policy
    from bitwright.report.render import render_trained
    from bitwright.store import folder as files
    from bitwright.store import write_atomically
    from bitwright.train.qat import check_settings
    from bitwright.train.strategy import named_strategy

    check_settings(epochs, learning_rate, labels, patience)
    named_strategy(strategy)
    changes = augmentation(augment)
    begin = begin_with(recipe, policy)
    added = actions(first, ()) if begin is None and split_names(first) else ()
    check_repairs((), added)
    job.require("model", "data")
    with work(job) as (session, store):
        if begin is None:
            begin = plain_recipe(job, session, policy, "W4A4")
            for action in added:
                begin = begin.then(action.kind, **action.options)
        found = train_policy(
            session,
            begin,
            job.output / files.CHECKPOINT,
            epochs=epochs,
            learning_rate=learning_rate,
            labels=labels,
            learn_steps=learn_steps,
            augment=changes,
            strategy=strategy,
            patience=patience,
            precision=precision,
        )
        sites = session.sites
        page = render_trained(found.course, found.verdicts, title(job))
        with store.results("qat") as folder:
            fitted = found.recipe.save(folder / files.RECIPE)
            found.save(folder / files.TRAINING)
            write_atomically(folder / files.TRAINING_PAGE, page)
    show(Console(highlight=False), found, sites, job.runtime)
    tell_files(job, fitted, files.TRAINING, "learned")


def augmentation(name: str) -> Any:
    """What ``--augment`` names: None, ours for images, or a function of the user's."""
    from bitwright.cli.specs import load_function
    from bitwright.train.feed import mirrored_and_shifted

    if not name:
        return None
    return mirrored_and_shifted if name == "images" else load_function(name, "augment")


def show(console: Console, found: Training, sites: Sites, runtime: str) -> None:
    """The epochs, and the figures before and after."""
    from bitwright.cli.reports import figures_of
    from bitwright.report import format as text
    from bitwright.report.terminal import plain_table

    course, distance, primary = found.course, found.after.distance_name, found.after.primary_name
    figures = found.after.figures
    table = plain_table("Epochs", f"* taken: the least distance on held-out samples. {_kept(found)}")
    for heading in ("Epoch", "Loss", *(text.heading(figures[name].measure) for name in (distance, primary))):
        table.add_column(heading, justify="right")
    table.add_column("Moved", justify="right")
    table.add_column("Oscillating", justify="right")
    if course.start is not None:
        mark = "" if course.best else " *"
        table.add_row(f"start{mark}", "-", text.value(figures[distance].measure, course.start), "-", "-", "-")
    for number, epoch in enumerate(course.epochs, start=1):
        held = zip((distance, primary), (epoch.distance, epoch.primary), strict=True)
        shown = ["-" if value is None else text.value(figures[name].measure, value) for name, value in held]
        mark = " *" if number == course.best else ""
        moved = text.percent(epoch.moved), text.percent(epoch.oscillating)
        table.add_row(f"{number}{mark}", text.significant(epoch.loss), *shown, *moved)
    console.print(table)
    policy = found.recipe.policy
    named = [(policy.replaced({}, label), verdict) for label, verdict in found.verdicts.items()]
    console.print(figures_of(named, sites, runtime))
    for note in course.notes:
        print(note)


def _kept(found: Training) -> str:
    from bitwright.report import format as text

    course = found.course
    least, middle, most = course.steps
    said = (
        f"{course.samples:,} samples in {text.duration(course.seconds)}; steps are {least:.2f} to {most:.2f} times as "
        f"large as before (median {middle:.2f})."
    )
    if course.float_left > 0:
        said += f" {text.percent(course.float_left)} of the parameters are not quantized and stay as they are."
    return said
