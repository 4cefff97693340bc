"""Other quantizers at sites, by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bitwright.errors import InvalidInput
from bitwright.graph.graph import Graph
from bitwright.quantizers.kind import QUANTIZERS
from bitwright.repair.descriptor import registered
from bitwright.repair.report import Change, RepairReport


@registered(
    name="put",
    order=45,
    does="Puts another quantizer at sites, by the name that it is registered under.",
    needs="its name: --set put.quantizer=NAME",
    changes="the grids of all weights, or of the sites that are named; the float network stays the same",
    lasting=True,
    moves=("weight grids", "activation grids"),
    named={"quantizer": QUANTIZERS},
)
def put(
    graph: Graph,
    batches: Any = None,
    *,
    quantizer: str = "uniform",
    options: Mapping[str, Any] | None = None,
    sites: Iterable[str] | None = None,
) -> RepairReport:
    """Put a quantizer at sites; the current policy stays.

    Args:
        graph: calibrated, for activations.
        batches: not needed.
        quantizer: one of :data:`~bitwright.quantizers.kind.QUANTIZERS`.
        options: of the quantizer, by name.
        sites: names; None for all weights.

    Returns:
        For each site with a width its mean step before and after.

    Raises:
        InvalidInput: an unknown quantizer, option or site, or a quantizer that is made for the other kind of sites.
    """
    kind, options = QUANTIZERS[quantizer], options or {}
    kind.check_options("quantizer", options)
    names = [site.name for site in graph.sites.weights] if sites is None else [graph.sites[name].name for name in sites]
    if not names:
        raise InvalidInput("there is no site to put a quantizer at; name some with sites=")
    changes, policy = [], graph.policy
    for name in names:
        before, bits = graph.quantizers[name], policy[name]
        step = 0.0 if bits is None else float(before.grid(bits).scale.mean())
        after = kind.function(before.site, **options)
        if before.site.kind == "activation":
            after.observe(before.observed)
        graph.put(name, after)
        if bits is not None:
            changes.append(Change(name, "step", step, float(after.grid(bits).scale.mean())))
    graph.apply(policy)
    return RepairReport("nothing", tuple(changes))
