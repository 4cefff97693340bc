"""What is computed from grids, found again as long as the same grids ask for it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Remembered(Generic[T]):
    """What was made of some objects, by their identity: grids are never changed in place."""

    def __init__(self, most: int = 64) -> None:
        self.most = most
        self._made: dict[tuple[Hashable, ...], tuple[Sequence[Any], T]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"most": self.most, "_made": {}}  # ids mean nothing in a copy

    def of(self, objects: Sequence[Any], make: Callable[[], T], *state: Hashable) -> T:
        """What ``make`` gave for the very same objects in the same state, or gives now."""
        key = (*map(id, objects), *state)
        if key not in self._made:
            if len(self._made) >= self.most:
                self._made.clear()
            self._made[key] = objects, make()  # the objects are kept along, so that their ids stay theirs
        return self._made[key][1]
