"""A repair: every activation's range loses a share, so that the values inside it get finer steps."""

from __future__ import annotations

from typing import Any

from bitwright.errors import InvalidInput
from bitwright.graph.graph import Graph
from bitwright.numerics.ranges import Observed
from bitwright.repair import Change, Repair, RepairReport


def shrink(graph: Graph, batches: Any = None, *, share: float = 0.05) -> RepairReport:
    """Cut a share off both ends of what calibration saw; the values beyond are clipped to the new ends."""
    if not 0 <= share < 1:
        raise InvalidInput(f"share must be at least 0 and below 1, got {share}")
    changes = []
    for site in graph.sites.activations:
        quantizer = graph.quantizers[site.name]
        seen = quantizer.observed
        if seen is None:
            raise InvalidInput(f"site '{site.name}' has no range yet; call bw.calibrate(graph, batches) first")
        low, high = seen.low * (1 - share), seen.high * (1 - share)
        quantizer.observe(Observed(low, high, seen.sample.clamp(low, high), seen.count))
        quantizer.set_ranges("minmax")
        changes.append(Change(site.name, "range", seen.high - seen.low, high - low))
    graph.apply(graph.policy)
    return RepairReport("what calibration saw", tuple(changes))


SHRINK = Repair(
    name="shrink",
    does="Ranges of activations lose a share at both ends.",
    needs="a calibrated graph",
    changes="ranges of activations",
    called="shorter ranges",
    function=shrink,
    moves=("activation grids",),
    leaves="ranges",
    mends={"activations": {}},
)
