"""``bitwright behavior``: the quantized network beside the float one on inputs that nobody tuned it on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitwright.cli.options import BASICS, CALIBRATION, PolicyFile, RecipeFile, takes_job

if TYPE_CHECKING:
    from rich.console import RenderableType

    from bitwright.cli.job import Job
    from bitwright.report.panels_behavior import BehaviorPanel

File = Annotated[
    Path | None,
    typer.Option("--file", metavar="FILE", help="An exported file, which runs in its runtime, in place of a policy."),
]
Shifts = Annotated[
    str,
    typer.Option(
        "--shifts", metavar="LIST", help="Some of --list, with commas between, or none; all that fit without it."
    ),
]
Severities = Annotated[str, typer.Option("--severities", metavar="LIST", help="Some of 1,2,3,4,5.")]
Also = Annotated[
    list[str] | None,
    typer.Option(
        "--also",
        metavar="DATA",
        help="Other data: NAME=DATA, of which the evaluation part is taken, or a published set: cifar10-c:DIR, "
        "mnist-c:DIR, imagenet-c:DIR. Can be given several times.",
    ),
]
Caught = Annotated[
    float, typer.Option("--catch", metavar="SHARE", help="Share of the disagreements that the guard is to catch.")
]
Tolerance = Annotated[
    float | None,
    typer.Option(
        "--tolerance", metavar="DISTANCE", help="For tasks that decide nothing: outputs disagree from here on."
    ),
]
Guarded = Annotated[
    bool, typer.Option("--write-guard", help="Write the guard into the metadata of --file, for bw.Guarded.")
]
Predict = Annotated[
    bool, typer.Option("--predict", help="Beside what is measured, the disagreements that Margin-FIT predicts.")
]
ListThem = Annotated[bool, typer.Option("--list", help="Show every shift with what it stands for.")]


@takes_job(*BASICS, *CALIBRATION, "runtime")
def behavior(
    job: Job,
    policy: PolicyFile = None,
    recipe: RecipeFile = None,
    file: File = None,
    shifts: Shifts = "",
    severities: Severities = "1,3,5",
    also: Also = None,
    catch: Caught = 0.95,
    tolerance: Tolerance = None,
    predict: Predict = False,
    write_guard: Guarded = False,
    list_them: ListThem = False,
) -> None:
    """Find out where a quantized network decides differently from the float one, and what guards against it.

    On the evaluation data, as they are and under shifts: noise, blur, weather and the like for images, misspelt and
    missing words for texts. Accuracy alone hides disagreements in which one network is right and others in which the
    other is; they are counted here. Indicators such as the margin are judged by how well they tell disagreements from
    the quantized network's output, and the best of them gives a threshold: inputs beyond it go to the float network.
    Writes behavior.html, with pictures, and behavior.json to the output folder. A study that was stopped goes on where
    it was.

    \b
    Examples:
      bitwright behavior --model mynet:build --data mydata:load --policy W4A8
      bitwright behavior --job bitwright.toml --recipe out/recipe.json --shifts fog,jpeg --severities 1,2,3,4,5
      bitwright behavior --job bitwright.toml --file out/model.onnx --also mnist-c:~/mnist_c --write-guard
    """
    from rich.console import Console

    from bitwright.behavior import INDICATORS, SHIFTS, add_guard
    from bitwright.behavior import behavior as study
    from bitwright.behavior.pictures import pictures
    from bitwright.cli.load import load_target, work
    from bitwright.cli.run import title
    from bitwright.errors import InvalidInput
    from bitwright.graph.batches import Checked
    from bitwright.report.panels_behavior import behavior_panel
    from bitwright.report.render import render_behavior
    from bitwright.settings import split_names
    from bitwright.store import folder as files
    from bitwright.store import write_atomically
    from bitwright.values.policy import FLOAT

    if list_them:
        for name, about in SHIFTS.items():
            print(f"{name:<16}{about.kind:<8}{about.does}")
        return
    named = [] if shifts == "none" else split_names(shifts) if shifts else None
    for name in named or ():
        SHIFTS[name]
    degrees = [part.strip() for part in severities.split(",")]
    if not all(part in ("1", "2", "3", "4", "5") for part in degrees):
        raise InvalidInput(f"--severities must be some of 1,2,3,4,5, got '{severities}'")
    if file is not None and (policy or recipe):
        raise InvalidInput("--file has its own policy and repairs; leave out --policy and --recipe")
    if write_guard and file is None:
        raise InvalidInput("--write-guard writes into an exported file; name it with --file")
    others, marks = _others(also or [], job)
    with work(job) as session:
        chosen, under = (FLOAT, session) if file else load_target(session, policy, recipe, job.output)
        batches, seed = Checked(session.batches("evaluation"), graph=under.graph), session.settings.seed
        content = _digest(file) if file else ""
        table = None
        if predict:
            from bitwright.flow import score

            table = next((t for t in score(under, ("margin-fit",)) if t.margin is not None), None)
            if table is None:
                raise InvalidInput(
                    f"--predict needs the margins of a decision; the task '{session.task.name}' has none"
                )

        def remember(name: str, severity: int, compute: Any) -> dict[str, Any]:
            return under.remember(
                "behavior",
                compute,
                policy=chosen,
                file=content,
                runtime=job.runtime if file else "",
                data=marks.get(name, session.samples.identity_of("evaluation")),
                shift=(name, severity, seed, SHIFTS[name].function if name in SHIFTS else None),
                indicators=[each.function for each in INDICATORS.values()],
                tolerance=tolerance,
            )

        with session.steps.step("shifts") as tell:
            found = study(
                under.graph,
                file or chosen,
                batches,
                named,
                severities=[int(part) for part in degrees],
                others=others,
                task=session.task,
                caught=catch,
                tolerance=tolerance,
                table=table,
                runtime=job.runtime,
                seed=seed,
                remember=remember,
                progress=tell,
            )
        found.save(job.output / files.BEHAVIOR)
        shown = pictures(found.examples, batches, others, seed)
    page = render_behavior(found, f"{title(job)}, {found.policy_name} in {found.runtime}", shown)
    write_atomically(job.output / files.BEHAVIOR_PAGE, page)
    panel = behavior_panel(found, shown)
    console = Console(highlight=False)
    for table_shown in tables(panel, f"{found.policy_name} in {found.runtime} beside float"):
        console.print(table_shown)
    for line in (*panel.sentences, *panel.notes):
        print(line)
    if write_guard and file is not None:
        if found.guard is None:
            raise InvalidInput("there is no guard to write: " + " ".join(found.notes))
        add_guard(file, found.guard, job.runtime)
        print(f"{file}: holds the guard now; bw.Guarded('{file}', float_model) uses it")
    print(f"\n{job.output / files.BEHAVIOR_PAGE}: with pictures; {job.output / files.BEHAVIOR}: every figure as data")


def _digest(file: Path) -> str:
    import hashlib

    from bitwright.errors import InvalidInput

    if not file.is_file():
        raise InvalidInput(f"there is no file '{file}'; export the graph first")
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _others(specs: list[str], job: Job) -> tuple[dict[str, Any], dict[str, str]]:
    """Name -> batches, or severity -> batches; and what tells each from others."""
    from bitwright.cli import specs as load
    from bitwright.data.published import is_published, load_published
    from bitwright.errors import InvalidInput

    found: dict[str, Any] = {}
    marks: dict[str, str] = {}
    for spec in specs:
        if is_published(spec):
            kind = spec.partition(":")[0]
            for name, by_severity in load_published(spec).items():
                found[f"{kind} {name}"] = {s: each.batches(job.batch_size) for s, each in by_severity.items()}
                marks[f"{kind} {name}"] = " ".join(each.fingerprint() for each in by_severity.values())
            continue
        name, equals, data = spec.partition("=")
        if not equals or not name or not data:
            raise InvalidInput(f"--also must be NAME=DATA or a published set such as cifar10-c:DIR, got '{spec}'")
        part = load.load_data(data).evaluation
        found[name], marks[name] = part.batches(job.batch_size), part.fingerprint()
    return found, marks


def tables(panel: BehaviorPanel, title: str) -> list[RenderableType]:
    """The shifts by severity, then the indicators."""
    from bitwright.report.terminal import plain_table

    clean = panel.rows[0]
    rows = plain_table(title, f"As they are: {clean[1]}. Every case with its figures: on the page.")
    rows.add_column(panel.measured, overflow="fold", min_width=20)
    for severity in panel.severities:
        rows.add_column(severity, justify="right", no_wrap=True)
    for row in panel.grid:
        rows.add_row(row.name, *(cell.replace("–", "-") for cell, _ in row.cells))
    shown: list[RenderableType] = [rows] if panel.grid else []
    if not panel.judged:
        return shown
    judged = plain_table("How well the output tells a disagreement")
    judged.add_column("Indicator")
    for heading in ("AUROC", "AUPR (a guess)", "TNR at 95 % TPR"):
        judged.add_column(heading, justify="right")
    for each in panel.judged:
        judged.add_row(*(cell.replace("%", "") for cell in each))
    return [*shown, judged]
