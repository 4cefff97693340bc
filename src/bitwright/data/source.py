"""What a named data set is: ``KIND``, ``KIND:PATH``, ``KIND:PATH?OPTION=VALUE&OPTION=VALUE``, described."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bitwright.data.dataset import DataSets
from bitwright.registry import Descriptor, Registry


@dataclass(frozen=True, kw_only=True, eq=False)
class Source(Descriptor):
    """A function ``(place, preparation, **options) -> DataSets``.

    ``place`` is the path of the spec, which is there, or None for data without one; ``preparation`` a
    :class:`~bitwright.data.array_dataset.Preparation`, order, number and normalisation of the samples. Options are
    whole numbers from 1.

    Attributes:
        path: ``"DIR"``, ``"FILE"``, or ``""`` for data that needs none.
        shuffle: seed of the order that the samples have unless the spec says otherwise; None: as they are stored.
    """

    function: Callable[..., DataSets]
    given: tuple[str, ...] = ("place", "preparation")
    path: str = ""
    shuffle: int | None = None

    @property
    def form(self) -> str:
        """Of a spec, e.g. ``npz:FILE``."""
        return f"{self.name}:{self.path}" if self.path else self.name


DATA: Registry[Source] = Registry("data", "bitwright.data", group="bitwright.data")
"""Every named data set."""
