"""A placement: sites as ONNX Runtime has them, with signed symmetric activations, as many NPUs want them.

A zero point that is always 0 costs such hardware nothing; a ReLU's output loses half of its grid by it.
"""

from __future__ import annotations

from typing import Any

from bitwright.graph.pt2e import PlacementKind, edge_quantizer


def edge_signed() -> Any:
    """A PT2E ``Quantizer``; one of a backend's own can be given back here just as well."""
    return edge_quantizer(symmetric_activations=True)


EDGE_SIGNED = PlacementKind(
    name="edge-signed",
    does="As edge, with signed symmetric activations.",
    changes="the grids of activations",
    function=edge_signed,
)
