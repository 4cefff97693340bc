"""The steps of a flow: how long each took, and how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[str, int, int | None], None]
"""Called with what is done, how many units of it, and of how many (None: not known)."""


class Steps:
    """Times the steps of a flow and passes their progress on.

    Attributes:
        seconds: step -> seconds.
    """

    def __init__(self, progress: Progress | None = None) -> None:
        self.seconds: dict[str, float] = {}
        self._progress = progress

    @contextmanager
    def step(self, name: str, total: int | None = None) -> Iterator[Callable[[int, int | None], None]]:
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
