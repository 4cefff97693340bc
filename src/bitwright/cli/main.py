"""``bitwright``: the commands and their common flags."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from bitwright.cli.entry import stopped
from bitwright.cli.guard import DEBUG_VARIABLE, fail, guarded

_ORDER = """
    demo run sites sensitivity search evaluate debug repair qat gmpq
    sweep tensor behavior export report compare settings
"""
COMMANDS: tuple[Callable[..., None], ...] = tuple(
    getattr(importlib.import_module(f"bitwright.cli.{name}"), name) for name in _ORDER.split()
)
"""One in each file of this room that bears its name, in the order of the help."""

app = typer.Typer(
    name="bitwright",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
)
for _command in COMMANDS:
    app.command()(guarded(_command))


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"bitwright {version('bitwright')}")
        raise typer.Exit


@app.callback()
def _bitwright(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and warnings.")] = False,
) -> None:
    """Which tensors of a network are sensitive to quantization, which bits each should get, and a file that runs it.

    Settings come from flags or from a job file, bitwright.toml. Every command can be stopped and started again:
    what was measured is kept in the output folder.
    """


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line. Ends with :class:`SystemExit`."""
    words = list(sys.argv[1:] if args is None else args)
    if "--debug" in words:  # allowed anywhere, before the command and after it
        words = [word for word in words if word != "--debug"]
        os.environ[DEBUG_VARIABLE] = "1"
    try:
        app(words, prog_name="bitwright")
    except KeyboardInterrupt:
        stopped("stopped")
    except Exception as error:
        fail(error)
