"""Where the command begins: signals first, then imports, so that a command can be stopped at any moment."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

EXIT_INTERRUPTED = 130
"""Stopped with Ctrl-C."""
EXIT_TERMINATED = 143
"""Stopped with SIGTERM."""


class Stopped(KeyboardInterrupt):
    """Ctrl-C or SIGTERM."""


_CODES: dict[int, int] = {signal.SIGINT: EXIT_INTERRUPTED, signal.SIGTERM: EXIT_TERMINATED}
_AGAIN_SECONDS = 1.0
_asked: list[int] = []
"""Exit codes of the signals that came."""


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command line; the entry point of the ``bitwright`` script. Ends with :class:`SystemExit`."""
    listen()
    try:
        from bitwright.cli.main import main as run

        run(args)
    except KeyboardInterrupt:
        stopped("stopped")
    raise SystemExit(0)


def listen() -> None:
    """Have Ctrl-C and SIGTERM raise :class:`Stopped`, in this process alone."""
    mine = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != mine:  # a worker that was forked from here
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        if number in _CODES:
            _asked.append(_CODES[number])
        if hasattr(signal, "setitimer"):  # raised in a finalizer or in somebody's bare except, it would be lost
            signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECONDS)
        raise Stopped

    for number in (*_CODES, *([signal.SIGALRM] if hasattr(signal, "SIGALRM") else [])):
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup asks for
            signal.signal(number, stop)
    tell = sys.unraisablehook
    sys.unraisablehook = lambda lost: None if isinstance(lost.exc_value, Stopped) else tell(lost)


def was_asked_to_stop() -> bool:
    """Whether a signal came, whatever the code that it interrupted made of it."""
    return bool(_asked)


def stopped(line: str) -> NoReturn:
    """Say so, and exit with the code of what stopped the command; one more signal ends the process at once."""
    if _asked:
        for number in _CODES:
            signal.signal(number, signal.SIG_DFL)
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
    print(line, file=sys.stderr, flush=True)
    raise SystemExit(_asked.pop(0) if _asked else EXIT_INTERRUPTED) from None
