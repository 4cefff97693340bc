"""Concatenations of values of very different sizes, which one grid cannot hold together."""

from __future__ import annotations

from torch.fx import GraphModule, Node

from bitwright.graph.operations import entry_of
from bitwright.graph.places import site_after, site_behind
from bitwright.numerics.ranges import Observed
from bitwright.quantizers.base import Quantizer

FEWEST = 8
"""Of the 256 levels of 8 bits, so many at least should be left to each of the values that are joined."""


def uneven_joins(module: GraphModule) -> list[str]:
    """One sentence for each concatenation whose one grid leaves one of its inputs fewer than :data:`FEWEST` levels.

    A layer that computes in integers reads one tensor with one step, so the inputs cannot keep grids of their own in
    front of it; more bits can be given to that place.

    Args:
        module: of a graph that was calibrated.
    """
    found = []
    for node in module.graph.nodes:
        if entry_of(node).kind != "cat":
            continue
        result = site_after(module, node)
        joined = [site_behind(module, one) for one in node.args[0] if isinstance(one, Node)]
        spans = {one.site.name: _span(one) for one in joined if one is not None and _span(one) > 0}
        if result is None or len(spans) < 2:
            continue
        name = min(spans, key=spans.__getitem__)
        levels = 255 * spans[name] / max(_span(result), max(spans.values()))
        if levels < FEWEST:
            place = result.site.name
            found.append(
                f"at '{place}', values of very different sizes share one grid: at 8 bits those of '{name}' are left "
                f"{max(round(levels), 1)} of its 255 steps; give the site more bits, e.g. --pin '{place}=16', or scale "
                "what is joined to one size and take that into the weights behind it"
            )
    return found


def _span(quantizer: Quantizer) -> float:
    """What calibration saw at a site, from the least to the largest value, 0 included; 0 where it saw nothing."""
    seen = quantizer.observed
    if not isinstance(seen, Observed):
        return 0.0
    return max(float(seen.high), 0.0) - min(float(seen.low), 0.0)
