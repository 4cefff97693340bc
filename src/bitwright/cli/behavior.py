"""``bitwright behavior``: the quantized network beside the float one on inputs that nobody tuned it on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitwright.cli.options import BASICS, CALIBRATION, PolicyFile, RecipeFile, takes_job

if TYPE_CHECKING:
    from rich.console import RenderableType

    from bitwright.cli.job import Job
    from bitwright.values.behavior import Behavior, Shifted

Shifts = Annotated[
    str, typer.Option("--shifts", metavar="LIST", help="Some of --list, with commas between; all that fit without it.")
]
Severities = Annotated[str, typer.Option("--severities", metavar="LIST", help="Some of 1,2,3,4,5.")]
Caught = Annotated[
    float, typer.Option("--catch", metavar="SHARE", help="Share of the disagreements that the guard is to catch.")
]
ListThem = Annotated[bool, typer.Option("--list", help="Show every shift with what it stands for.")]


@takes_job(*BASICS, *CALIBRATION)
def behavior(
    job: Job,
    policy: PolicyFile = None,
    recipe: RecipeFile = None,
    shifts: Shifts = "",
    severities: Severities = "1,3,5",
    catch: Caught = 0.95,
    list_them: ListThem = False,
) -> None:
    """Find out where a quantized network decides otherwise than the float one, and what guards against it.

    On the evaluation data, as they are and under shifts: noise, blur, weather and the like for images, misspelt and
    missing words for texts. Accuracy alone hides disagreements in which one network is right and others in which the
    other is; they are counted here. Indicators such as the margin are judged by how well they tell disagreements from
    the quantized network's output, and the best of them gives a threshold: inputs beyond it go to the float network.
    Writes behavior.json to the output folder.

    \b
    Examples:
      bitwright behavior --model mynet:build --data mydata:load --policy W4A8
      bitwright behavior --job bitwright.toml --recipe out/recipe.json --shifts fog,jpeg --severities 1,2,3,4,5
    """
    from rich.console import Console

    from bitwright.behavior import SHIFTS
    from bitwright.behavior import behavior as study
    from bitwright.cli.load import load_target, work
    from bitwright.errors import InvalidInput
    from bitwright.settings import split_names
    from bitwright.store import folder as files
    from bitwright.values.behavior import Behavior

    if list_them:
        for name, about in SHIFTS.items():
            print(f"{name:<16}{about.kind:<8}{about.does}")
        return
    named = split_names(shifts) if shifts else None
    for name in named or ():
        SHIFTS[name]
    degrees = [part.strip() for part in severities.split(",")]
    if not all(part in ("1", "2", "3", "4", "5") for part in degrees):
        raise InvalidInput(f"--severities must be some of 1,2,3,4,5, got '{severities}'")
    with work(job) as session:
        chosen, under = load_target(session, policy, recipe, job.output)
        options: dict[str, Any] = {"severities": [int(part) for part in degrees], "caught": catch}

        def compute() -> dict[str, Any]:
            with session.steps.step("shifts") as tell:
                batches, seed = session.batches("evaluation"), session.settings.seed
                found = study(
                    under.graph, chosen, batches, named, task=session.task, seed=seed, progress=tell, **options
                )
                return found.to_dict()

        parts = {"policy": chosen, "data": session.samples.identity_of("evaluation"), "shifts": named, **options}
        kept = under.remember("behavior", compute, **parts, functions=[s.function for s in SHIFTS.values()])
        found = Behavior.from_dict(kept)
        found.save(job.output / files.BEHAVIOR)
    console = Console(highlight=False)
    for table in tables(found):
        console.print(table)
    for line in sentences(found):
        print(line)
    print(f"\n{job.output / files.BEHAVIOR}: every figure as data")


def tables(found: Behavior) -> list[RenderableType]:
    """The shifts, then the indicators."""
    from bitwright.report import format as text
    from bitwright.report.terminal import plain_table

    rows = plain_table(f"{found.policy_name} beside float, on shifted inputs")
    rows.add_column("Shift", no_wrap=True)
    for heading in ("Disagree %", f"{found.primary.label}, float", "Quantized", "Lost, gained", found.distance.label):
        rows.add_column(heading, justify="right")
    for one in (found.clean, *found.shifted):
        rows.add_row(*cells(found, one))
    if not found.indicators:
        return [rows]
    judged = plain_table("How well the output tells a disagreement, in %")
    judged.add_column("Indicator")
    for heading in ("AUROC", "AUPR (a guess)", "TNR at 95 % TPR"):
        judged.add_column(heading, justify="right")
    for each in found.indicators:
        shares = [text.percent_interval(interval) for interval in (each.auroc, each.aupr, each.tnr)]
        judged.add_row(each.name, shares[0], f"{shares[1]} ({text.percent(each.guess)})", shares[2])
    return [rows, judged]


def cells(found: Behavior, one: Shifted) -> list[str]:
    """One row of the table of shifts."""
    from bitwright.report import format as text

    name = f"{one.shift} {one.severity}" if one.shift else "as they are"
    rate = "-" if one.rate is None else text.percent_interval(one.rate).replace("%", "")
    shown = ["-" if v is None else text.value(found.primary, v) for v in (one.float_figure, one.figure)]
    shown.append("-" if one.lost is None or one.gained is None else f"{one.lost}, {one.gained}")
    return [name, rate, *shown, text.significant(one.distance.value)]


def sentences(found: Behavior) -> list[str]:
    """What stands out, and the guard."""
    from bitwright.report import format as text

    lines = list(found.notes)
    rated = [one for one in found.shifted if one.rate is not None]
    if rated and found.clean.rate is not None:
        worst = max(rated, key=lambda one: one.rate.value if one.rate else 0.0)
        assert worst.rate is not None
        lines.insert(
            0,
            f"The two decide differently on {text.percent(found.clean.rate.value)} of the inputs as they are, and on "
            f"{text.percent(worst.rate.value)} under {worst.shift} {worst.severity}.",
        )
    guard = found.guard
    if guard is not None:
        edge = f"at {'most' if guard.below else 'least'} {text.significant(guard.threshold)}"
        said = (
            f"Guard: where the {guard.indicator} is {edge}, the input goes to the float network. That catches "
            f"{text.percent(guard.caught.value)} of the disagreements (asked for: {text.percent(guard.wanted)}) and "
            f"sends {text.percent(guard.sent_back.value)} of the inputs."
        )
        if guard.pair is not None and guard.figure is not None and guard.float_figure is not None:
            shown = (text.value(found.primary, v) for v in (guard.pair, guard.figure, guard.float_figure))
            said += " {}: {} together, {} alone, {} in float.".format(found.primary.label, *shown)
        lines.append(said)
    return lines
