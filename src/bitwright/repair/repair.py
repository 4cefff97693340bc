"""One entry for all repairs, by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from bitwright.errors import InvalidInput, nearest
from bitwright.graph.graph import Graph
from bitwright.repair.adaround import adaround
from bitwright.repair.bias import bias_correction
from bitwright.repair.equalization import equalize
from bitwright.repair.outliers import clip, smooth
from bitwright.repair.ranges import set_granularity, set_ranges
from bitwright.repair.report import RepairReport


def brecq(graph: Graph, batches: Any, policy: Any = None, **options: Any) -> RepairReport:
    """:func:`adaround` with ``unit="block"``: residual blocks are reconstructed whole."""
    return adaround(graph, batches, policy, **{**options, "unit": "block"})


REPAIRS: Mapping[str, Callable[..., RepairReport]] = MappingProxyType(
    {
        "cle": equalize,
        "smooth": smooth,
        "granularity": set_granularity,
        "ranges": set_ranges,
        "clip": clip,
        "adaround": adaround,
        "blocks": brecq,
        "bias": bias_correction,
    }
)
"""Name -> function, in an order in which they can follow one another."""


def repair(graph: Graph, name: str, batches: Any = None, **options: Any) -> RepairReport:
    """Mend a graph in place with one repair; the model that was captured isn't touched.

    ``graph.repairs`` keeps the names of those that were applied. An order in which one would undo another is refused.

    Args:
        graph: from :func:`~bitwright.graph.capture`; for all repairs but ``"cle"`` calibrated.
        name: ``"cle"``, ``"smooth"``, ``"granularity"``, ``"ranges"``, ``"clip"``, ``"adaround"``, ``"blocks"`` or
            ``"bias"``.
        batches: calibration data, an iterable of (inputs, targets).
        options: of the repair: see the functions in :data:`REPAIRS`.

    Returns:
        What it needed, changed and cost.

    Raises:
        InvalidInput: an unknown repair or option, or an order that makes no sense.
    """
    if name not in REPAIRS:
        raise InvalidInput(f"repair must be one of {', '.join(REPAIRS)}, got '{name}'{nearest(name, REPAIRS)}")
    function = REPAIRS[name]
    known = _options(adaround if name == "blocks" else function)
    for option in options:
        if option not in known or (name == "blocks" and option == "unit"):
            hint = nearest(option, known)
            raise InvalidInput(f"repair '{name}' has no option '{option}'{hint} (it has: {', '.join(known)})")
    return function(graph, batches, **options)


def _options(function: Callable[..., Any]) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name not in ("graph", "batches")]
