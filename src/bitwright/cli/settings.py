"""``bitwright settings``: what settings mean, and the names that they can take."""

from __future__ import annotations

from textwrap import fill
from typing import Annotated

import typer

Names = Annotated[
    list[str] | None, typer.Argument(metavar="SETTING...", help="e.g. method cost. [default: all of them]")
]


def settings(names: Names = None) -> None:
    """Show what settings mean, their defaults, and the names that they can take.

    Names that other installed packages bring are among them. Each setting is a flag and a key of the job file.

    \b
    Examples:
      bitwright settings
      bitwright settings method repairs
    """
    from bitwright.cli.job import fields
    from bitwright.cli.options import meaning
    from bitwright.errors import InvalidInput, nearest
    from bitwright.settings import default_of, flag_name, flag_of

    known = fields()
    for name in names or known:
        if name not in known:
            hint = nearest(name, known) or "; `bitwright settings` shows them all"
            raise InvalidInput(f"there is no setting '{name}'{hint}")
        shown = default_of(known[name])
        flag = f"{flag_name(name, known[name])} {flag_of(known[name]).metavar}".rstrip()
        print(f"{flag} [default: {shown}]" if shown else flag)
        indent = "    "
        print(fill(meaning(name), 80, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False))
