"""Outliers of activations: a search for where to cut them off."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from bitwright.errors import InvalidInput
from bitwright.graph.graph import Graph
from bitwright.graph.layers import Layer, layers_of
from bitwright.graph.places import site_calls
from bitwright.graph.twins import Twins
from bitwright.numerics.affine import Affine, fake_quantize
from bitwright.numerics.ranges import Observed, activation_affine
from bitwright.quantizers.base import Quantizer
from bitwright.repair.checks import checked_inputs, checked_policy
from bitwright.repair.descriptor import registered
from bitwright.repair.report import Change, RepairReport
from bitwright.values import Policy

SHARES = tuple(2.0 ** (-k / 2) for k in range(0, 21))
"""Of the observed range that the clipping search keeps: down to 1/1,024."""


@registered(
    name="clip",
    order=60,
    does="Searches for how much of each activation's range to keep.",
    needs="calibration data and a policy",
    changes="ranges of activations",
    costs="about twenty float passes",
    called="clipped ranges",
    moves=("activation grids",),
    leaves="ranges",
    mends={"activations": {}},
)
def clip(
    graph: Graph, batches: Any, policy: Policy | None = None, *, sites: Iterable[str] | None = None, samples: int = 256
) -> RepairReport:
    """Search for each activation how much of its range to keep, by the error of what is computed from it.

    Each share of the observed range is tried at the site alone; the one with the smallest squared error at the
    outputs of the operations that read the site is taken, if it is better than the range that is there. Sites whose
    readers have no weights are judged by the error of the activation itself.

    Args:
        graph: calibrated.
        batches: calibration data.
        policy: the widths; None for the current policy.
        sites: activation sites; None for all.
        samples: calibration samples used, at most.

    Returns:
        For each site the error with the range that was there and with the one that is there now, relative to what is
        computed.

    Raises:
        InvalidInput: no data, no widths, or sites that are not activations.
    """
    chosen = checked_policy(graph, "clip", policy)
    names = None if sites is None else {graph.sites[name].name for name in sites}
    for name in names or ():
        if graph.sites[name].kind != "activation":
            raise InvalidInput(f"clipping is for activations, site '{name}' is a weight")
        if chosen[name] is None:
            raise InvalidInput(f"site '{name}' is in float under the policy; give it a width first")
    inputs = checked_inputs(graph, "clip", batches, samples)
    in_force = graph.policy
    changes = []
    with graph.applied(chosen):
        stops = {}
        for node, site in site_calls(graph.module).items():
            if site.site.kind == "weight" or site.bits is None:
                continue
            if (names is None or site.site.name in names) and not site.dynamic:
                if site.observed is None:
                    raise InvalidInput(
                        f"the clipping search needs what calibration saw at site '{site.site.name}'; pass batches to "
                        "apply_recipe, too"
                    )
                stops[node] = site
        layers = {layer.node: layer for layer in layers_of(graph)}
        twins = Twins(graph, inputs)
        for node in twins.stops(stops):
            change = _clip(twins, node, stops[node], [layers[user] for user in node.users if user in layers])
            if change is not None:
                changes.append(change)
    graph.apply(in_force)
    count = sum(len(values[0]) for values in inputs)
    return RepairReport(f"{count} calibration samples", tuple(changes), samples=count)


def _clip(twins: Twins, node: Node, quantizer: Quantizer, readers: list[Layer]) -> Change | None:
    bits, seen = quantizer.bits, quantizer.observed
    if bits is None or seen is None:
        return None
    scheme = quantizer.site.scheme
    low, high = scheme.integer_range(bits)
    values = twins.float[node]
    exact = [_read(twins, readers, value) for value in values]
    size = sum(float(part.double().square().sum()) for parts in exact for part in parts) or 1.0

    def harm(affine: Affine) -> float:
        total = 0.0
        for value, wanted in zip(values, exact, strict=True):
            got = _read(twins, readers, fake_quantize(value, affine.to(value.device)))
            total += sum(float((a - b).double().square().sum()) for a, b in zip(got, wanted, strict=True))
        return total / size

    present = quantizer.grid(bits)
    before = best = harm(present)
    for share in SHARES:
        kept = Observed(seen.low * share, seen.high * share, seen.sample, seen.count)
        affine = activation_affine(kept, low, high, scheme.symmetric, "minmax")
        found = harm(affine)
        if found < best:
            best = found
            quantizer.fix(bits, affine)
    return Change(quantizer.site.name, "relative error", before, best) if best < before else None


def _read(twins: Twins, readers: list[Layer], value: Tensor) -> list[Tensor]:
    """What the layers that read a site make of a value, or the value itself."""
    if not readers:
        return [value]
    results = []
    for layer in readers:
        source = layer.node.args[0]
        assert isinstance(source, Node)
        with torch.no_grad():
            results.append(twins.walk.alone(layer.node, {source: value}, twins.float.hooks))
    return results
