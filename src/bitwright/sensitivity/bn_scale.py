"""Rounding noise over the scale of the batch norm behind a layer: a baseline of the FIT paper."""

from __future__ import annotations

import numpy as np

from bitwright.graph.graph import Graph
from bitwright.graph.places import site_after, site_calls
from bitwright.graph.pt2e import NORM_SCALES
from bitwright.sensitivity.evidence import Evidence
from bitwright.sensitivity.method import METHODS, Method, Scores


def bn_scale(evidence: Evidence) -> Scores:
    """harm[s, b] = E[d^2] / mean(gamma^2), with the scale gamma of the batch norm behind the site's layer.

    The batch norm is folded into the weight, so that weight and output are both proportional to gamma: dividing it out
    leaves the noise of a normalized layer. Sites of layers without a batch norm keep their noise as it is.
    """
    scales = norm_scale_of_sites(evidence.graph)
    factors = np.array([scales.get(name, 1.0) for name in evidence.graph.sites.names])
    notes = () if scales else ("no layer has a batch norm, so this is the rounding error alone",)
    return Scores(evidence.noise / factors[:, None], notes=(*evidence.notes, *notes))


def norm_scale_of_sites(graph: Graph) -> dict[str, float]:
    """Site -> mean(gamma^2) of the batch norm behind its layer, for the layer's weight and for its output."""
    known: dict[str, float] = graph.module.meta.get(NORM_SCALES, {})
    found = {}
    for node, stands in site_calls(graph.module).items():
        source = node.args[0]
        scale = known.get(str(source.target), 0.0) if stands.site.kind == "weight" else 0.0  # type: ignore[union-attr]
        if scale > 0.0:
            found[stands.site.name] = scale
            for layer in node.users:
                behind = site_after(graph.module, layer)
                if behind is not None:
                    found[behind.site.name] = scale
    return found


METHODS.register(
    Method(
        name="bn-scale",
        order=32,
        called="BN scale",
        does="The rounding error over the scale of the batch norm behind the layer, a baseline.",
        needs="batch norms; without any it is the rounding error alone",
        unit="mean squared rounding error over the squared scale",
        function=bn_scale,
    )
)
