"""What a command does when something goes wrong: one line and an exit code, never a traceback unless asked for."""

from __future__ import annotations

import errno
import functools
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

import typer

from bitwright.cli.entry import stopped, was_asked_to_stop
from bitwright.errors import BitwrightError, BitwrightWarning, InvalidInput, by_users_code, told

EXIT_ERROR = 1
"""Something that Bitwright did not foresee."""
EXIT_BAD_INPUT = 2
"""Something that the user can mend."""
EXIT_OUTCOMES = {"holds": 0, "undecided": 3, "fails": 4}
"""Whether the target holds, of ``bitwright debug`` and ``bitwright run --target-drop``."""

DEBUG_VARIABLE = "BITWRIGHT_DEBUG"
"""Set by ``--debug``, so that worker processes know too."""


def debugging() -> bool:
    """Whether tracebacks are wanted."""
    return os.environ.get(DEBUG_VARIABLE, "") not in ("", "0")


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """The command, with every exception turned into one line on stderr and an exit code."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        if not debugging():
            # Deprecations inside libraries are not the user's business; --debug shows them.
            warnings.simplefilter("ignore")
            warnings.simplefilter("default", BitwrightWarning)
            warnings.showwarning = lambda message, *_: say(f"warning: {message}")
        try:
            command(*args, **kwargs)
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except SystemExit as error:
            fail(InvalidInput(f"code of your own ended the program ({told(error)}); raise an error there instead"))
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) or was_asked_to_stop():
                stopped("stopped; the same command goes on from here (finished measurements are kept)")
            fail(error)

    return run


def fail(error: BaseException) -> NoReturn:
    """Print one line about ``error`` and exit; with ``--debug`` raise it as it is."""
    if debugging():
        raise error
    if isinstance(error, BitwrightError):
        say(f"error: {_one_line(error)}")
        raise SystemExit(EXIT_BAD_INPUT) from None
    if isinstance(error, OSError) and error.errno == errno.EPIPE:  # the reader of our output went away
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 -- for the interpreter's last flush
        raise SystemExit(EXIT_ERROR) from None
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        place = f": cannot write '{error.filename}'" if error.filename else ""
        say(f"error: the disk is full{place}; free some space, then run the same command again")
        raise SystemExit(EXIT_BAD_INPUT) from None
    if isinstance(error, MemoryError):
        say("error: not enough memory; use a smaller batch_size or fewer score_samples")
        raise SystemExit(EXIT_ERROR) from None
    if isinstance(error, Exception) and by_users_code(error):
        say(f"error: code of your own failed: {told(error)}; run with --debug to see how it was called")
        raise SystemExit(EXIT_BAD_INPUT) from None
    say(f"error: {type(error).__name__}: {_one_line(error)} (unexpected; run with --debug to see where)")
    raise SystemExit(EXIT_ERROR) from None


def say(line: str) -> None:
    """One line on stderr."""
    print(line, file=sys.stderr, flush=True)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
