"""``bitwright behavior``: the quantized network beside the float one on inputs that nobody tuned it on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitwright.cli.options import BASICS, CALIBRATION, takes_job
from bitwright.cli.targets import Beside, Files, Policies, Recipes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console, RenderableType

    from bitwright.behavior import Subject
    from bitwright.behavior.study import Study
    from bitwright.cli.job import Job
    from bitwright.cli.targets import Target
    from bitwright.report.panels_behavior import BehaviorPanel
    from bitwright.values.behavior import Behavior, Behaviors, Retraining

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
Retrain = Annotated[
    int | None,
    typer.Option(
        "--retrain",
        metavar="EPOCHS",
        min=1,
        help="Train the network with the disagreements on one half of the inputs, and see what becomes of them and of "
        "those on the other half.",
    ),
]
Words = Annotated[
    Path | None,
    typer.Option(
        "--words", metavar="FILE", help="What the numbers of a text stand for, one a line from 0 on, to show texts."
    ),
]
ListThem = Annotated[bool, typer.Option("--list", help="Show every shift with what it stands for.")]


@takes_job(*BASICS, *CALIBRATION, "runtime")
def behavior(
    job: Job,
    policy: Policies = None,
    recipe: Recipes = None,
    file: Files = None,
    beside: Beside = None,
    shifts: Shifts = "",
    severities: Severities = "1,3,5",
    also: Also = None,
    catch: Caught = 0.95,
    tolerance: Tolerance = None,
    predict: Predict = False,
    write_guard: Guarded = False,
    retrain: Retrain = None,
    words: Words = None,
    list_them: ListThem = False,
) -> None:
    """Find out where a quantized network decides differently from the float one, and what guards against it.

    On the evaluation data, as they are and under shifts: noise, blur, weather and the like for images, misspelt and
    missing words for texts. Accuracy alone hides disagreements in which one network is right and others in which the
    other is; they are counted here. Indicators such as the margin are judged by how well they tell disagreements from
    the quantized network's output, and the best of them gives a threshold: inputs beyond it go to the float network.
    Several policies, recipes, files and models are compared on the same inputs. Writes behavior.html, with pictures,
    and behavior.json to the output folder, and with --retrain the trained network's retrained.json. A study that was
    stopped goes on where it was.

    \b
    Examples:
      bitwright behavior --model mynet:build --data mydata:load --policy W4A8
      bitwright behavior --job bitwright.toml --recipe out/recipe.json --shifts fog,jpeg --severities 1,2,3,4,5
      bitwright behavior --job bitwright.toml --file out/model.onnx --also mnist-c:~/mnist_c --write-guard
      bitwright behavior --job bitwright.toml --policy W4A4 --recipe out/recipe.json --beside mixup=mynet:with_mixup
      bitwright behavior --job bitwright.toml --recipe out/recipe.json --retrain 3
    """
    from rich.console import Console

    from bitwright.behavior import SHIFTS, add_guard
    from bitwright.behavior.side_by_side import side_by_side
    from bitwright.behavior.study import Study
    from bitwright.cli.load import work
    from bitwright.cli.reports import read_lines
    from bitwright.cli.run import title
    from bitwright.cli.targets import targets
    from bitwright.errors import InvalidInput
    from bitwright.graph.batches import Checked
    from bitwright.report.render import render_behavior, render_behaviors
    from bitwright.settings import split_names
    from bitwright.store import folder as files
    from bitwright.store import write_atomically

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
    if write_guard and (not file or len(file) > 1 or policy or recipe or beside):
        raise InvalidInput("--write-guard writes into one exported file; name it with --file, and nothing beside it")
    if retrain and (file or beside or len([*(policy or ()), *(recipe or ())]) > 1):
        raise InvalidInput(
            "--retrain trains one policy or recipe; name no other --policy or --recipe, no --file and no --beside"
        )
    vocabulary = None if words is None else read_lines(words, "--words")
    others, marks = _others(also or [], job)
    with work(job) as (session, store):
        chosen = targets(job, session, policy, recipe, file, beside)
        first = next(iter(chosen.values()))
        batches, seed = Checked(session.batches("evaluation"), graph=first.session.graph), session.settings.seed
        subjects = {name: _subject(one, job, marks, predict, tolerance) for name, one in chosen.items()}
        study = Study(
            first.session.graph,
            batches,
            named,
            [int(part) for part in degrees],
            others,
            session.task,
            catch,
            tolerance,
            job.runtime,
            seed,
        )

        def shown(one: Behavior) -> tuple[str, ...]:
            from bitwright.behavior.pictures import pictures

            return pictures(one.examples, batches, others, seed, vocabulary)

        with session.steps.step("shifts") as tell:
            several = side_by_side(study, subjects, tell)
        found = next(iter(several.studies.values())) if len(subjects) == 1 else None
        if retrain and found is not None:
            found = replace(found, retraining=_retrained(first, study, job, marks, retrain, tolerance))
        console = Console(highlight=False)
        if found is None:
            pages = {name: shown(one) for name, one in several.studies.items()}
            page = render_behaviors(several, f"{title(job)}, {len(several.studies)} networks", pages)
            _tell_several(console, several)
        else:
            page = render_behavior(found, f"{title(job)}, {found.policy_name} in {found.runtime}", shown(found))
            _tell(console, found)
        with store.results("behavior") as folder:
            (several if found is None else found).save(folder / files.BEHAVIOR)
            write_atomically(folder / files.BEHAVIOR_PAGE, page)
    if write_guard and found is not None and file:
        if found.guard is None:
            raise InvalidInput("there is no guard to write: " + " ".join(found.notes))
        add_guard(file[0], found.guard, job.runtime)
        print(f"{file[0]}: holds the guard now; bw.Guarded('{file[0]}', float_model) uses it")
    if retrain:
        made = job.output / files.RETRAINED
        print(f"{made}: the trained network; apply it: bitwright export --recipe {made} ...")
    print(f"\n{job.output / files.BEHAVIOR_PAGE}: with pictures; {job.output / files.BEHAVIOR}: every figure as data")


def _subject(target: Target, job: Job, marks: Mapping[str, str], predict: bool, tolerance: float | None) -> Subject:
    """A target with its records in the run store and, where it is asked for, what Margin-FIT says of it."""
    from bitwright.behavior import INDICATORS, SHIFTS, Subject
    from bitwright.errors import InvalidInput
    from bitwright.flow import score

    session, table = target.session, None
    if predict:
        table = next((t for t in score(session, ("margin-fit",)) if t.margin is not None), None)
        if table is None:
            raise InvalidInput(f"--predict needs the margins of a decision; the task '{session.task.name}' has none")

    def remember(name: str, severity: int, compute: Any) -> dict[str, Any]:
        return session.remember(
            "behavior",
            compute,
            policy=target.policy,
            file=target.digest,
            runtime=job.runtime if target.digest else "",
            data=marks.get(name, session.samples.identity_of("evaluation")),
            shift=(name, severity, session.settings.seed, SHIFTS[name].function if name in SHIFTS else None),
            indicators=[each.function for each in INDICATORS.values()],
            tolerance=tolerance,
        )

    return Subject(session.graph, target.target, table, remember)


def _retrained(
    target: Target, study: Study, job: Job, marks: Mapping[str, str], epochs: int, tolerance: float | None
) -> Retraining:
    """Train a target with its disagreements, see what became of them, and write the recipe."""
    from bitwright.behavior.retraining import Mixed, disagreed, retraining
    from bitwright.flow.training import train_policy
    from bitwright.store import folder as files
    from bitwright.values.recipe import Recipe

    session = target.session
    (before,) = study.watch([_subject(target, job, marks, False, tolerance)])
    added = disagreed(study, before)
    begin = session.recipe if session is not session.plain else Recipe(target.policy, job.ranges)
    trained = train_policy(session.plain, begin, job.output / files.CHECKPOINT, added, epochs=epochs)
    after = replace(target, session=session.plain.under(trained.recipe))
    with session.steps.step("shifts again") as tell:
        (seen,) = study.watch([_subject(after, job, marks, False, tolerance)], tell)
    trained.recipe.save(job.output / files.RETRAINED)
    return retraining(study, before, seen, Mixed(session.batches("training"), added), epochs)


def _tell(console: Console, found: Behavior) -> None:
    """One network: its shifts, indicators and guard."""
    from bitwright.report.panels_behavior import behavior_panel, turned_headings

    panel = behavior_panel(found)
    for table in tables(panel, f"{found.policy_name} in {found.runtime} beside float"):
        console.print(table)
    if found.retraining is not None:
        console.print(turned_table(panel, turned_headings(found)))
    for line in (*panel.sentences, *panel.notes):
        print(line)


def _tell_several(console: Console, found: Behaviors) -> None:
    """Several networks: a row for each, with what fits into a terminal."""
    from bitwright.report.panels_behaviors import behaviors_panel
    from bitwright.report.terminal import plain_table

    panel = behaviors_panel(found)
    more = "Float's figures, every case, indicators and guards: on the page."
    table = plain_table(f"{panel.headings[0].partition(',')[0]} with float, on the same inputs", more)
    table.add_column("Network", overflow="fold", min_width=10)
    headings = ("as they are", *panel.headings[1:-3], found.studies[panel.names[0]].primary.label)
    for heading in headings:
        table.add_column(heading[0].upper() + heading[1:], justify="right")
    for name, *cells in panel.rows:
        kept = (cells[0].partition(" ")[0], *cells[1:-3], cells[-2])
        table.add_row(name, *(cell.replace("–", "-") for cell in kept))
    console.print(table)
    for line in (*panel.sentences, *panel.notes):
        print(line)


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


def turned_table(panel: BehaviorPanel, headings: Sequence[str]) -> RenderableType:
    """What became of disagreements in a training."""
    from bitwright.report.terminal import plain_table

    table = plain_table(
        "Retraining with disagreements", f"Shift by shift, and {headings[-1].partition(',')[0]}: on the page."
    )
    table.add_column(headings[0], overflow="fold", min_width=14)
    for heading in headings[1:-1]:
        table.add_column(heading, justify="right")
    for row in panel.turned:
        table.add_row(*row[:-1])
    return table
