"""``bitwright compare``: finished runs side by side."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bitwright.cli.job import Job
    from bitwright.report import RunReport
    from bitwright.session import Session
    from bitwright.values.behavior import Apart

Folders = Annotated[list[Path], typer.Argument(metavar="DIR DIR...", help="The output folders of two or more runs.")]
To = Annotated[Path | None, typer.Option("--to", metavar="FILE", help="Write an HTML page as well, with pictures.")]
Inputs = Annotated[
    bool, typer.Option("--inputs/--no-inputs", help="Run the networks to find the inputs on which they differ.")
]
Words = Annotated[
    Path | None,
    typer.Option("--words", metavar="FILE", help="What the numbers of a text stand for, one a line, to show texts."),
]


def compare(folders: Folders, to: To = None, inputs: Inputs = True, words: Words = None) -> None:
    """Show finished runs side by side.

    Accuracies with their intervals, costs, and the sites whose bits differ. Where the models are at hand, the chosen
    networks run on the evaluation data, and it is told on which inputs they decide differently; the page shows these.

    \b
    Examples:
      bitwright compare out/w4a4 out/w4a8
      bitwright compare out/w4a4 out/w4a8 --to compare.html
    """
    from rich.console import Console

    from bitwright.cli.reports import read_lines, read_report
    from bitwright.errors import BitwrightError, first_line
    from bitwright.report import render_compare
    from bitwright.report.compare import apart_sentence
    from bitwright.report.panels_behavior import decided
    from bitwright.report.terminal import compare_table
    from bitwright.store import write_atomically

    vocabulary = None if words is None else read_lines(words, "--words")
    reports = [read_report(folder) for folder in folders]
    names = [str(folder) for folder in folders]
    Console(highlight=False).print(compare_table(reports, names))
    differing: list[tuple[str, list[tuple[str, str, str]]]] = []
    try:
        for name, (one, shown) in zip(names[1:], _apart(folders, reports, vocabulary) if inputs else (), strict=inputs):
            places = [(f"input {each.sample}", decided(each, names[0], name)) for each in one.examples]
            examples = [(*place, picture) for place, picture in zip(places, shown, strict=True)]
            differing.append((apart_sentence(one, names[0], name), examples))
    except BitwrightError as error:
        differing = [(f"Inputs were not compared: {first_line(error)}", [])]
    for sentence, _ in differing:
        print(f"\n{sentence}")
    if to is not None:
        write_atomically(to, render_compare(reports, names, differing))
        print(f"\n{to}")


def _apart(
    folders: Sequence[Path], reports: Sequence[RunReport], words: Sequence[str] | None
) -> list[tuple[Apart, tuple[str, ...]]]:
    """Each later run against the first on the first one's evaluation data, with pictures or texts."""
    from bitwright.behavior.apart import apart
    from bitwright.behavior.pictures import pictures
    from bitwright.cli.job import load_job
    from bitwright.cli.progress import ProgressBars
    from bitwright.errors import InvalidInput
    from bitwright.store import folder as files

    found = []
    with ExitStack() as open_stores:
        bars = open_stores.enter_context(ProgressBars())
        sides = []
        for folder, report in zip(folders, reports, strict=True):
            if not (folder / files.JOB).is_file() or report.chosen is None:
                raise InvalidInput(f"'{folder}' has no {files.JOB}, or no policy was chosen there")
            job = load_job(folder / files.JOB)
            sides.append((job.data, _session(open_stores, job, folder, report, bars), report.chosen.policy))
        data, first, policy = sides[0]
        batches, seed = first.batches("evaluation"), first.settings.seed
        for other_data, second, other in sides[1:]:
            if other_data != data:
                raise InvalidInput(f"the runs are of other data, '{data}' and '{other_data}'")

            def remember(compute, second=second, other=other):  # type: ignore[no-untyped-def]
                evaluation = first.samples.identity_of("evaluation")
                parts = {"policy": policy, "other": second.identity, "its": other, "data": evaluation}
                return first.remember("apart", compute, **parts)

            with first.steps.step("compare inputs"):
                one = apart(
                    (first.graph, policy), (second.graph, other), batches, first.task, seed=seed, remember=remember
                )
            found.append((one, pictures(one.examples, batches, None, seed, words)))
    return found


def _session(stack: ExitStack, job: Job, folder: Path, report: RunReport, bars: object) -> Session:
    """The network of a run, with the repairs that it came to."""
    from bitwright.cli.load import load_data, load_model, load_recipe
    from bitwright.session import Session, Steps
    from bitwright.store import RunStore
    from bitwright.store import folder as files

    store = stack.enter_context(RunStore(folder))
    session = Session.open(load_model(job), load_data(job), job.settings(), store, Steps(bars))  # type: ignore[arg-type]
    file = folder / files.RECIPE
    recipe = load_recipe(str(file)) if file.is_file() else None
    assert report.chosen is not None
    return session.under(recipe) if recipe is not None and recipe.policy == report.chosen.policy else session
