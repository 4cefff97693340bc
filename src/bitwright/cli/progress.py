"""What a command is doing and how long it still takes, on stderr; nothing where stderr is not a terminal."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any


class ProgressBars:
    """Progress bars for the steps of a flow: called with what is done, how many units of it, and of how many.

    Use it as a context manager; bars of finished steps stay with their time.

    Args:
        enabled: None: only where stderr is a terminal.
    """

    def __init__(self, enabled: bool | None = None) -> None:
        self.enabled = sys.stderr.isatty() if enabled is None else enabled
        self._bars: Any = None
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> ProgressBars:
        if self.enabled:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            self._bars = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[clock]}"),
                console=Console(stderr=True),
            )
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def __call__(self, step: str, done: int, total: int | None) -> None:
        """Show that ``done`` of ``total`` units of a step are done; None: nobody knows of how many."""
        if self._bars is None:
            return
        if step not in self._tasks:
            self._tasks[step] = self._bars.add_task(step, total=total, clock="")
        self._bars.update(self._tasks[step], completed=done, total=total)
        task = next(t for t in self._bars.tasks if t.id == self._tasks[step])
        self._bars.update(task.id, clock=clock(task.elapsed, task.time_remaining, task.finished))


def clock(elapsed: float | None, remaining: float | None, finished: bool) -> str:
    """What a bar says of time: how long the step took, or how long it still takes."""
    from bitwright.report.format import duration

    if finished:
        return f"took {duration(elapsed or 0.0)}"
    return "" if remaining is None else f"{duration(remaining)} left"
