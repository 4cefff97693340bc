"""Ranges of single sites, observed again after a repair has changed what passes there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bitwright.graph.calibration import calibrate
from bitwright.graph.graph import Graph
from bitwright.graph.places import activation_at
from bitwright.quantizers.base import Quantizer
from bitwright.values import FLOAT


def forget_ranges(graph: Graph, nodes: Iterable[Any]) -> list[Quantizer]:
    """Make the activation sites among some nodes uncalibrated; those sites."""
    found = []
    for node in nodes:
        site = activation_at(graph.module, node)
        if site is not None:
            site.observe(None)
            site.refit()
            found.append(site)
    return found


def refresh(graph: Graph, batches: list[tuple[Any, ...]] | None, weights: Iterable[Quantizer]) -> None:
    """Calibrate a graph anew, each site by the method that it has; without data only forget what was seen."""
    for quantizer in weights:
        quantizer.observe(None)
        quantizer.refit()
    if batches is not None:
        with graph.applied(FLOAT):
            calibrate(graph, [(inputs, None) for inputs in batches], ranges=None)
