"""What a sensitivity method is: how a site's harm at a width is estimated, described."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from bitwright.registry import Descriptor, Registry
from bitwright.tasks import Task
from bitwright.values import MarginModel

if TYPE_CHECKING:
    from bitwright.sensitivity.evidence import Evidence

Array = npt.NDArray[np.float64]
Score = Callable[[Task, Any, Any, int], Tensor]
"""(task, outputs, targets, N) -> (N,), one number for each sample, of which gradients are taken."""


@dataclass(frozen=True)
class Scores:
    """What a method finds.

    Attributes:
        harm: (S, B), for each site in the graph's order at each width; larger is worse.
        standard_error: of each, or None.
        samples: inputs that it was estimated from; 0 where none were looked at.
        model: how harms add up, where that is not a plain sum.
        parts: further arrays with one row for each site.
        unit: what the numbers count, where it is not the method's ``unit``.
        notes: in words, for the report.
        doubts: site -> why its harm is not to be trusted.
    """

    harm: Array
    standard_error: Array | None = None
    samples: int = 0
    model: MarginModel | None = None
    parts: dict[str, Array] = field(default_factory=dict)
    unit: str = ""
    notes: tuple[str, ...] = ()
    doubts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class Method(Descriptor):
    """A function ``(evidence) -> Scores``; see :class:`~bitwright.sensitivity.evidence.Evidence`.

    What several methods need of the evidence is made once for all of them.

    Attributes:
        unit: what the numbers count.
        score: of which it needs each sample's gradients at the sites, None: it needs none.
        margin: it needs the task's margin of each sample.
        instead: the method that takes its place for tasks without one.
        beside: runs make it beside the method that they are asked for, and show how well each predicts; for methods
            that share their passes over the data.
    """

    function: Callable[[Evidence], Scores]
    given: tuple[str, ...] = ("evidence",)
    unit: str
    score: Score | None = None
    margin: bool = False
    instead: str = ""
    beside: bool = False


METHODS: Registry[Method] = Registry("method", "bitwright.sensitivity")
"""Every sensitivity method by name."""
