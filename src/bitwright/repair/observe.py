"""Ranges of single sites, observed again after a repair has changed what passes there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from bitwright.graph.calibration import calibrate
from bitwright.graph.graph import Graph
from bitwright.graph.layers import module_at
from bitwright.quantizers.uniform import ActivationQuantizer, WeightQuantizer
from bitwright.values import FLOAT


def forget_ranges(graph: Graph, nodes: Iterable[Any]) -> list[ActivationQuantizer]:
    """Make the activation sites among some nodes uncalibrated; those sites."""
    found = []
    for node in nodes:
        site = module_at(graph, node)
        if isinstance(site, ActivationQuantizer):
            site.observed = None
            site.set_ranges(site.ranges, site.percentile)
            found.append(site)
    return found


def refresh(graph: Graph, batches: list[tuple[Any, ...]] | None, weights: Iterable[WeightQuantizer]) -> None:
    """Calibrate a graph anew, each site by the method that it has; without data only forget what was seen.

    Args:
        graph: whose weights have changed.
        batches: inputs of each batch, or None.
        weights: the quantizers of the weights that have changed.
    """
    for quantizer in weights:
        quantizer.observe(None)
        quantizer.set_ranges(quantizer.ranges, quantizer.percentile)
    if batches is None:
        return
    methods = {name: (q.ranges, q.percentile) for name, q in graph.quantizers.items() if hasattr(q, "ranges")}
    with graph.applied(FLOAT), torch.no_grad():
        calibrate(graph, [(inputs, None) for inputs in batches])
        for name, (ranges, percentile) in methods.items():
            graph.quantizers[name].set_ranges(ranges, percentile)  # type: ignore[operator]
