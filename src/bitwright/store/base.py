"""What every store offers: measurements by key."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any


class Store(ABC):
    """Keeps plain data under keys of its content."""

    @abstractmethod
    def get(self, key: str) -> dict[str, Any] | None:
        """The measurement under ``key``, or None."""

    @abstractmethod
    def put(self, key: str, kind: str, payload: Mapping[str, Any]) -> None:
        """Keep a measurement; a second one under the same key changes nothing."""

    def claimed(self, key: str) -> AbstractContextManager[None]:
        """A block in which no other process works on a key."""
        return nullcontext()

    def get_or_compute(self, key: str, kind: str, compute: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """The measurement under ``key``; ``compute`` runs, and its result is kept, only when there is none.

        Where another process computes it, this waits for it; should that one die, this takes its place.
        """
        found = self.get(key)
        if found is None:
            with self.claimed(key):
                found = self.get(key)
                if found is None:
                    self.put(key, kind, compute())
                    found = self.get(key)
        assert found is not None
        return found

    def attempt(self, key: str, kind: str, compute: Callable[[], Mapping[str, Any]]) -> dict[str, Any] | None:
        """As :meth:`get_or_compute`, but None at once where another process is computing it."""
        return self.get_or_compute(key, kind, compute)


class Memory(Store):
    """Keeps measurements as long as it lives."""

    def __init__(self) -> None:
        self._found: dict[str, dict[str, Any]] = {}

    def get(self, key: str) -> dict[str, Any] | None:
        """The measurement under ``key``, or None."""
        return self._found.get(key)

    def put(self, key: str, kind: str, payload: Mapping[str, Any]) -> None:
        """Keep a measurement; a second one under the same key changes nothing."""
        self._found.setdefault(key, dict(payload))
