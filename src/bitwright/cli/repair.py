"""``bitwright repair``: mending a quantized network with repairs that are named, one after the other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitwright.cli.options import BASICS, CALIBRATION, RecipeFile, policy_option, takes_job
from bitwright.settings import split_names

if TYPE_CHECKING:
    from rich.console import Console

    from bitwright.cli.job import Job
    from bitwright.flow.repairing import Repaired
    from bitwright.repair import RepairReport
    from bitwright.values import Sites
    from bitwright.values.recipe import Action, Recipe

Names = Annotated[
    str | None,
    typer.Argument(metavar="REPAIRS", help="e.g. gptq, or cle,adaround; applied in this order.", show_default=False),
]
ListThem = Annotated[bool, typer.Option("--list", help="Show every repair with what it needs, changes and costs.")]
Option = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="REPAIR.OPTION=VALUE", help="e.g. adaround.iterations=500 or bias.method=analytic."),
]
PolicyFile = Annotated[str | None, policy_option("policy.json of the output folder, where there is one, else W8A8")]


@takes_job(*BASICS, *CALIBRATION)
def repair(
    job: Job,
    repairs: Names = None,
    policy: PolicyFile = None,
    recipe: RecipeFile = None,
    options: Option = None,
    list_them: ListThem = False,
) -> None:
    """Mend a quantized network with the repairs that you name.

    Says for each repair what it needed, what it changed and what it cost; then the network under the policy before
    and after, against float, with intervals. Writes recipe.json, which bitwright run, evaluate and export apply with
    --recipe, beside it what was fitted, so that this takes a second, and repairs.json with every figure. An order that
    makes no sense is refused before anything is computed.

    \b
    Examples:
      bitwright repair --list
      bitwright repair gptq --model mynet:build --data mydata:load --policy W4A8
      bitwright repair cle --set cle.activations=true --job bitwright.toml
      bitwright repair bias --recipe out/recipe.json --job bitwright.toml
    """
    from rich.console import Console

    from bitwright.cli.load import begin_with, plain_recipe, tell_files, work
    from bitwright.errors import InvalidInput
    from bitwright.flow.repairing import check_repairs, repair_policy
    from bitwright.store import folder as files

    console = Console(highlight=False)
    if list_them:
        print(catalogue())
        return
    if not repairs:
        raise InvalidInput("name the repairs, e.g. `bitwright repair gptq`; --list shows them all")
    begin = begin_with(recipe, policy)
    added = actions(repairs, options or ())
    check_repairs(begin.actions if begin is not None else (), added)
    job.require("model", "data")
    with work(job) as (session, store):
        begin = begin or plain_recipe(job, session, policy, "W8A8")
        found = repair_policy(session, begin, added)
        sites = session.sites
        with store.results("repair") as folder:
            fitted = found.recipe.save(folder / files.RECIPE)
            found.save(folder / files.REPAIRS)
    show(console, found, begin, sites, job.runtime)
    tell_files(job, fitted, files.REPAIRS)


def actions(names: str, settings: Sequence[str]) -> tuple[Action, ...]:
    """``"cle,bias"`` and ``["bias.method=analytic"]`` as the actions of a recipe."""
    from bitwright.errors import InvalidInput
    from bitwright.values.recipe import Action

    wanted = split_names(names)
    if not all(wanted):
        raise InvalidInput(f"repairs must have the form NAME or NAME,NAME, got '{names}'; --list shows them all")
    own: dict[str, dict[str, Any]] = {name: {} for name in wanted}
    for setting in settings:
        left, equals, value = setting.partition("=")
        name, dot, option = left.strip().partition(".")
        if not equals or not dot or not option:
            raise InvalidInput(
                f"--set must have the form REPAIR.OPTION=VALUE, e.g. adaround.iterations=500, got '{setting}'"
            )
        if name not in own:
            raise InvalidInput(f"--set {setting} is for the repair '{name}', which is not among {', '.join(wanted)}")
        if option == "policy":
            raise InvalidInput(f"a repair uses the widths of --policy; leave out --set {setting}")
        own[name][option] = _value(option, value.strip())
    return tuple(Action("repair", {"name": name, **own[name]}) for name in wanted)


def _value(option: str, text: str) -> Any:
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        found = text
    if option == "sites" and not isinstance(found, (list, dict)):  # a site can be called 1, too
        return [part.strip() for part in text.split(",")]
    return found


def catalogue() -> str:
    """Every repair: what it does, needs, changes and costs, its options, and what it must not follow."""
    from bitwright.repair import REPAIRS

    lines = ["Repairs, in an order in which they can follow one another:"]
    for name, about in REPAIRS.items():
        options = [f"{key}={_shown(value)}" for key, value in about.options.items() if key != "policy"]
        lines += ["", f"{name}: {about.does}", f"  needs     {about.needs}", f"  changes   {about.changes}"]
        lines.append(f"  costs     {about.costs}")
        if options:
            lines.append(f"  options   {', '.join(options)}")
        if undone := [earlier.name for earlier in REPAIRS.values() if about.undoes(earlier)]:
            lines.append(f"  not after {', '.join(undone)}")
    return "\n".join(lines)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def show(console: Console, found: Repaired, begin: Recipe, sites: Sites, runtime: str) -> None:
    """What each repair did, and the figures before and after."""
    from bitwright.cli.reports import figures_of

    for report in found.reports:
        print(report_lines(report, found.pass_seconds), end="\n\n")
    before, after = begin.policy, found.recipe.policy
    name = before.name or "policy"
    rows = [(before.replaced({}, name), found.before), (after.replaced({}, f"{name}, repaired"), found.after)]
    console.print(figures_of(rows, sites, runtime))
    print(outcome(found))


def report_lines(report: RepairReport, pass_seconds: float) -> str:
    """One repair in a few lines: what it needed, what it changed, what it cost."""
    from bitwright.report import format as text

    passes = report.processor_seconds / pass_seconds if pass_seconds > 0 else 0.0
    lines = [f"{report.name}:", f"  needed   {report.needs}"]
    lines += [f"  changed  {line}" for line in report.changed() or ("nothing",)]
    lines += [f"  note     {note}" for note in report.notes]
    lines.append(f"  cost     {text.duration(report.seconds)}, the processor time of {passes:,.1f} float passes")
    return "\n".join(lines)


def outcome(found: Repaired) -> str:
    """Whether the repairs help, judged on held-out calibration samples, in one sentence."""
    from bitwright.report import format as text

    measure = found.held_before.figures[found.held_before.distance_name].measure
    before, after = (text.interval(measure, v.distance) for v in (found.held_before, found.held_after))
    figures = f"{measure.label} on held-out calibration samples: {before} before, {after} after"
    if found.held_after.distance.value == found.held_before.distance.value:
        return f"The repairs change nothing. {figures}."
    if found.helps:
        return f"The repairs help. {figures}."
    return f"The repairs do not help: leave them out. {figures}."
