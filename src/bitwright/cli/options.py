"""The flags that commands share, made from the settings; each sets the key of the job file with the same name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from bitwright.cli.job import JOB_FILE, fields, load_job, made
from bitwright.settings import NAMED, default_of, flag_name, flag_of, names_of

JobFile = Annotated[
    Path | None, typer.Option("--job", metavar="FILE", help=f"Job file. [default: {JOB_FILE}, if there is one]")
]
RecipeFile = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        metavar="FILE",
        help="A recipe: policy, repairs and ranges together. Nothing in the .npz file beside it is fitted again.",
    ),
]
Augment = Annotated[
    str,
    typer.Option("--augment", metavar="NAME", help="images: mirror and shift them at random; or module:function."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

Command = Callable[..., None]

BASICS = ("model", "weights", "trust", "data", "output")
MEASURES = ("task", "loss", "metric")
CALIBRATION = (
    "ranges",
    "calibration_samples",
    "batch_size",
    "quantizer",
    "returns",
    "seed",
    "threads",
    "device",
    *MEASURES,
)
SCORING = ("bits", "method", "score_samples")
MEASURING = ("rounds", "evaluations", "minutes", "holdout_samples")
SEARCHING = ("budget", "cost", "pins", "points")


def policy_option(default: str) -> Any:
    """The flag ``--policy`` of a command."""
    return typer.Option("--policy", metavar="POLICY", help=f"A policy file, or e.g. W4A8. [default: {default}]")


PolicyFile = Annotated[str | None, policy_option("policy.json of the output folder")]


def description(name: str) -> str:
    """What a setting means."""
    return " ".join((fields()[name].description or "").split())


def meaning(name: str) -> str:
    """What a setting means, and what it may be called, for which all that other packages bring is imported."""
    words = description(name)
    if name not in NAMED:
        return words
    start = "The names are" if name in ("data", "task") else "One of" if fields()[name].annotation is str else "Any of"
    return f"{words} {start} {', '.join(names_of(name))}."


def option(name: str, default: str = "") -> Any:
    """A setting as an annotated parameter for typer, whose text the settings check as they check the job file."""
    field = fields()[name]
    flag = flag_of(field)
    names = [flag_name(name, field), *([flag.short] if flag.short else [])]
    # A registry imports everything that is registered there, and torch with it: help has to be quicker than that.
    elsewhere = name in NAMED and name != "ranges"
    text = f"{description(name)} Names: bitwright settings {name}." if elsewhere else meaning(name)
    shown = default or default_of(field)
    text += f" [default: {shown}]" if shown else ""
    kind: Any = bool if field.annotation is bool else list[str] if flag.repeated else str
    return Annotated[kind | None, typer.Option(*names, metavar=flag.metavar or None, help=text)]


def _annotated(hint: Any) -> Any:
    """The hint that was written: Python 3.10 wraps those of parameters with the default None into another Optional."""
    inner = get_args(hint)
    return inner[0] if inner and get_origin(inner[0]) is Annotated else hint


def takes_job(*names: str, preset: Mapping[str, Any] | None = None) -> Callable[[Command], Command]:
    """Give a command the flags of these settings, before its own; it is handed the :class:`Job` that they make.

    Args:
        names: of the settings.
        preset: settings that take the place of a job file, which the command then does not read.
    """
    fixed = preset or {}

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def run(job: Path | None = None, **given: Any) -> None:
            flags = {name: given.pop(name) for name in names}
            command(load_job(job, **flags) if preset is None else made(fixed, flags), **given)

        hints = get_type_hints(command, localns={"Job": object}, include_extras=True)
        own = list(inspect.signature(command).parameters.values())[1:]
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters = [
            *([inspect.Parameter("job", kind, default=None, annotation=JobFile)] if preset is None else []),
            *(
                inspect.Parameter(name, kind, default=None, annotation=option(name, str(fixed.get(name, ""))))
                for name in dict.fromkeys(names)
            ),
            *(p.replace(annotation=_annotated(hints[p.name])) for p in own),
        ]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.settings = tuple(dict.fromkeys(names))  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate
