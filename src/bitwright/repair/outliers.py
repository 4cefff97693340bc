"""Outliers of activations: a search for where to cut them off, and moving them into the weights of linear layers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from bitwright.errors import InvalidInput
from bitwright.graph.graph import Graph
from bitwright.graph.layers import Layer, layers_of
from bitwright.graph.names import attribute_at
from bitwright.graph.operations import entry_of
from bitwright.graph.places import activation_at, quantizer_at, site_calls
from bitwright.graph.twins import Twins
from bitwright.numerics.affine import Affine, fake_quantize
from bitwright.numerics.ranges import Observed, activation_affine
from bitwright.quantizers.base import Quantizer
from bitwright.repair.chains import input_reach, scale_inputs, shared_tensors
from bitwright.repair.checks import checked_inputs, checked_policy
from bitwright.repair.descriptor import registered
from bitwright.repair.observe import forget_ranges, refresh
from bitwright.repair.report import Change, RepairReport
from bitwright.settings import DEFAULTS
from bitwright.values import FLOAT, Policy

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
        InvalidInput: no data, no widths, or sites that are no activations.
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
            if names is None or site.site.name in names:
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


@registered(
    name="smooth",
    order=30,
    does="SmoothQuant: outliers of activations move into the weights of the linear layers that read them.",
    needs="calibration data; layer norms in front of linear layers",
    changes="layer norms and linear weights; the float function stays the same",
    costs="five to ten float passes",
    called="SmoothQuant",
    lasting=True,
    moves=("scales",),
    mends={"activations": {}},
)
def smooth(
    graph: Graph, batches: Any, *, strength: float = 0.5, samples: int = DEFAULTS.calibration_samples
) -> RepairReport:
    """Move outliers of activations into the weights of linear layers (SmoothQuant, Xiao et al., ICML 2023, eq. 4).

    Channel j of an activation is divided by s_j = max|x_j|^a / max|w_j|^(1-a) and the linear layers that read it are
    multiplied by it; the division goes into the layer norm that makes the activation, its weight and bias. All
    readers of an activation share its scales. (Between two layers, cross-layer equalization with ``activations=True``
    does the like.) The float function stays what it is.

    Args:
        graph: its weights are changed in place; the model that was captured isn't touched.
        batches: calibration data; ranges are set anew.
        strength: a: 0 leaves all to the activations, 1 all to the weights.
        samples: calibration samples used, at most.

    Returns:
        For each activation the largest over the mean of its channels' ranges, before and after.

    Raises:
        InvalidInput: a strength outside 0 to 1, or a repair before this one that it would undo.
    """
    if not 0 <= strength <= 1:
        raise InvalidInput(f"strength must be between 0 and 1, got {strength}")
    inputs = checked_inputs(graph, "smooth", batches, samples)
    policy = graph.policy
    graph.apply(FLOAT)
    changes: list[Change] = []
    notes: list[str] = []
    stands, readers = _smoothable(graph, notes)
    changed: dict[int, Quantizer] = {}
    touched: list[Node] = []
    if stands:
        twins = Twins(graph, inputs)
        reaches: dict[Node, Tensor] = {}
        for node in twins.stops(stands):
            parts = [value.flatten(0, -2).abs().amax(0) for value in twins.float[node]]
            reaches[node] = torch.stack(parts).amax(0)
        for node, reach in reaches.items():
            weights = torch.stack([input_reach(layer) for layer in readers[node]]).amax(0)
            usable = (reach > 0) & (weights > 0)
            scale = torch.where(usable, reach.double() ** strength / weights.double() ** (1 - strength), 1.0)
            scale = torch.where(usable, scale, 1.0).clamp(1e-5, 1e5).to(reach.dtype)
            for tensor in _affine_of(graph, node):
                with torch.no_grad():
                    tensor.div_(scale.to(tensor))
            for layer in readers[node]:
                scale_inputs(layer, scale)
                changed[id(layer.weight)] = layer.weight
            touched += [node, *(user for user in node.users if quantizer_at(graph.module, user) is not None)]
            after = reach / scale
            changes.append(Change(readers[node][0].name, "largest over mean range", _peak(reach), _peak(after)))
    if not changes:
        notes.append("no linear layer reads a layer norm that could take up the scales")
    forget_ranges(graph, touched)
    if changed:
        refresh(graph, inputs, changed.values())
    graph.apply(policy)
    count = sum(len(values[0]) for values in inputs)
    return RepairReport(f"{count} calibration samples", tuple(changes), tuple(notes), count)


def _peak(reach: Tensor) -> float:
    return float(reach.max() / reach.mean().clamp_min(1e-30))


def _smoothable(graph: Graph, notes: list[str]) -> tuple[dict[Node, None], dict[Node, list[Layer]]]:
    """Layer norms whose only readers (through sites) are linear layers, with those layers."""
    layers = {layer.node: layer for layer in layers_of(graph)}
    shared = shared_tensors(graph)
    found: dict[Node, list[Layer]] = {}
    for node in graph.module.graph.nodes:
        if entry_of(node).kind != "layer_norm":
            continue
        ends = _ends(graph, node)
        linear = bool(ends) and all(end in layers and layers[end].linear for end in ends)
        if not linear or len(_affine_of(graph, node)) != 2:
            notes.append(f"{node.name} feeds more than linear layers or has no weight and bias, and is left alone")
            continue
        mine = [layers[end] for end in ends]
        shape = node.args[1]
        single = isinstance(shape, (list, tuple)) and len(shape) == 1
        if not single or any(map(shared, [*_affine_of(graph, node), *(layer.weight.weight for layer in mine)])):
            notes.append(f"{node.name} or a layer behind it shares its weight, and is left alone")
            continue
        found[node] = mine
    return dict.fromkeys(found), found


def _ends(graph: Graph, node: Node) -> list[Node]:
    """The operations that read a value, through its sites."""
    found: list[Node] = []
    for user in node.users:
        if activation_at(graph.module, user) is not None:
            found += _ends(graph, user)
        else:
            found.append(user)
    return found


def _affine_of(graph: Graph, node: Node) -> list[Tensor]:
    """Weight and bias of a layer norm, to be changed in place."""
    found = []
    for arg in node.args[2:4]:
        if isinstance(arg, Node) and arg.op == "get_attr":
            found.append(attribute_at(graph.module, str(arg.target)))
    return found
