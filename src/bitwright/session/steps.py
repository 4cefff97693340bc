"""The steps of a flow: how long each took, and how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

Progress = Callable[[str, int, int | None], None]
"""Called with what is done, how many units of it, and of how many (None: not known)."""


class Tell(Protocol):
    """Says how far a step is: units done, and of how many (None: as known before)."""

    def __call__(self, done: int, of: int | None = None) -> None:
        """Call it as often as there is something to say."""


class Steps:
    """Times the steps of a flow and passes their progress on.

    Attributes:
        seconds: step -> seconds.
    """

    def __init__(self, progress: Progress | None = None) -> None:
        self.seconds: dict[str, float] = {}
        self._progress = progress

    @contextmanager
    def step(self, name: str, total: int | None = None) -> Iterator[Tell]:
        """Time a step; the block is given a function for its progress: (units done, of how many)."""
        shown = [0, total]

        def tell(done: int, of: int | None = None) -> None:
            shown[:] = [done, total if of is None else of]
            if self._progress is not None:
                self._progress(name, done, shown[1])

        start = time.perf_counter()
        tell(0)
        yield tell
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        last = shown[1] if shown[1] is not None else max(1, shown[0] or 0)
        if self._progress is not None:
            self._progress(name, last, last)
