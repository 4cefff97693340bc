"""Moving outliers of activations into the weights of the linear layers that read them (SmoothQuant, AWQ)."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor
from torch.fx import Node

from bitwright.errors import InvalidInput
from bitwright.graph.graph import Graph
from bitwright.graph.layers import Layer, layers_of
from bitwright.graph.names import attribute_at
from bitwright.graph.operations import channel_constants, entry_of
from bitwright.graph.places import activation_at, quantizer_at
from bitwright.graph.twins import Twins
from bitwright.numerics.ranges import Observed
from bitwright.quantizers.base import Quantizer
from bitwright.repair.chains import input_reach, scale_inputs, shared_tensors
from bitwright.repair.checks import checked_inputs
from bitwright.repair.descriptor import registered
from bitwright.repair.observe import forget_ranges, refresh
from bitwright.repair.report import Change, RepairReport
from bitwright.settings import DEFAULTS
from bitwright.values import FLOAT

STRENGTHS = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Tried for each activation where none is given; with 0 nothing is moved."""
ROWS = 1024
"""Of each activation, on which they are compared, at most."""


@registered(
    name="smooth",
    order=30,
    does="SmoothQuant: outliers of activations move into the weights of the linear layers that read them.",
    needs="calibration data; norms, or a placement that leaves room for scales, in front of linear layers",
    changes="norms, scales and linear weights; the float function stays the same",
    costs="five to ten float passes",
    called="SmoothQuant",
    lasting=True,
    moves=("scales",),
    mends={"activations": {}},
)
def smooth(
    graph: Graph,
    batches: Any,
    *,
    strength: float | None = 0.5,
    weights: int = 8,
    activations: int = 8,
    samples: int = DEFAULTS.calibration_samples,
) -> RepairReport:
    """Move outliers of activations into the weights of linear layers (SmoothQuant, Xiao et al., ICML 2023, eq. 4).

    Channel j of an activation is divided by s_j = max|x_j|^a / max|w_j|^(1-a) and the linear layers that read it are
    multiplied by it; the division goes into the norm that makes the activation, its weight and bias, or into the
    constants that the placements of :mod:`bitwright.graph.layers_alone` put in front of linear layers. All readers of
    an activation share its scales. (Between two layers, cross-layer equalization with ``activations=True`` does the
    like.) The float function stays what it is.

    Without a strength, each activation gets the one of :data:`STRENGTHS` with the smallest squared error of the layers
    that read it. Where activations have no sites, that is AWQ's search (Lin et al., MLSys 2024, section 3.2).

    Args:
        graph: its weights are changed in place; the model that was captured isn't touched.
        batches: calibration data; ranges are set anew.
        strength: a: 0 leaves all to the activations, 1 all to the weights; None for the best one for each activation.
        weights: bits at which strengths are compared.
        activations: likewise, of what has a site.
        samples: calibration samples used, at most.

    Returns:
        For each activation the largest over the mean of its channels' ranges, before and after.

    Raises:
        InvalidInput: a strength outside 0 to 1, or a repair before this one that it would undo.
    """
    if strength is not None and not 0 <= strength <= 1:
        raise InvalidInput(f"strength must be between 0 and 1, got {strength}")
    inputs = checked_inputs(graph, "smooth", batches, samples)
    policy = graph.policy
    graph.apply(FLOAT)
    changes: list[Change] = []
    notes: list[str] = []
    readers = _smoothable(graph, notes)
    changed: dict[int, Quantizer] = {}
    touched: list[Node] = []
    if readers:
        twins = Twins(graph, inputs)
        found: dict[Node, tuple[Tensor, Tensor]] = {}
        for node in twins.stops(readers):
            values = [value.flatten(0, -2) for value in twins.float[node]]
            reach = torch.stack([part.abs().amax(0) for part in values]).amax(0)
            if strength is None:
                found[node] = (
                    reach,
                    _best_scale(graph, node, readers[node], torch.cat(values), reach, weights, activations),
                )
            else:
                found[node] = reach, _scale(reach, readers[node], strength)
        for node, (reach, scale) in found.items():
            if bool((scale == 1).all()):
                continue
            for tensor in _constants_of(graph, node):
                with torch.no_grad():
                    tensor.div_(scale.to(tensor))
            for layer in readers[node]:
                scale_inputs(layer, scale)
                changed[id(layer.weight)] = layer.weight
            touched += [node, *(user for user in node.users if quantizer_at(graph.module, user) is not None)]
            after = reach / scale
            changes.append(Change(readers[node][0].name, "largest over mean range", _peak(reach), _peak(after)))
    if not readers:
        notes.append("no linear layer reads a norm that could take up the scales")
    forget_ranges(graph, touched)
    if changed:
        refresh(graph, inputs, changed.values())
    graph.apply(policy)
    count = sum(len(values[0]) for values in inputs)
    return RepairReport(f"{count} calibration samples", tuple(changes), tuple(notes), count)


def _scale(reach: Tensor, layers: list[Layer], strength: float) -> Tensor:
    """(channels,) what an activation is divided by."""
    weights = torch.stack([input_reach(layer) for layer in layers]).amax(0)
    usable = (reach > 0) & (weights > 0)
    scale = torch.where(usable, reach.double() ** strength / weights.double() ** (1 - strength), 1.0)
    return torch.where(usable, scale, 1.0).clamp(1e-5, 1e5).to(reach.dtype)


def _best_scale(
    graph: Graph, node: Node, layers: list[Layer], values: Tensor, reach: Tensor, bits: int, width: int
) -> Tensor:
    """The scale of the strength with the smallest squared error of the layers' outputs, each relative to its size."""
    site = next((stands for user in node.users if (stands := activation_at(graph.module, user)) is not None), None)
    rows = values[torch.linspace(0, len(values) - 1, min(len(values), ROWS)).long()]
    plain = [layer.weight.weight.detach() for layer in layers]
    exact = [functional.linear(rows, weight) for weight in plain]
    best, least = torch.ones_like(reach), torch.inf
    for strength in STRENGTHS:
        scale = _scale(reach, layers, strength) if strength else torch.ones_like(reach)
        given = rows / scale
        if site is not None:
            stand = _copied(site)
            ends = [values.amin(0) / scale, values.amax(0) / scale]
            stand.observe(Observed(float(ends[0].min()), float(ends[1].max()), given.flatten(), given.numel()))
            given = stand.quantize(given, width)
        total = 0.0
        for layer, weight, wanted in zip(layers, plain, exact, strict=True):
            holder = _copied(layer.weight)
            holder.set_ranges("minmax")  # other ranges take ten times as long and change no order
            holder.hold(weight * scale)
            error = functional.linear(given, holder.rounded(bits)) - wanted
            total += float(error.double().square().sum() / wanted.double().square().sum().clamp_min(1e-30))
        if total < least:
            best, least = scale, total
    return best


def _copied(quantizer: Quantizer) -> Quantizer:
    """A quantizer of the same kind, without what was seen or fixed."""
    made = copy.deepcopy(quantizer)
    made.observe(None)
    made.refit()
    return made


def _peak(reach: Tensor) -> float:
    return float(reach.max() / reach.mean().clamp_min(1e-30))


def _smoothable(graph: Graph, notes: list[str]) -> dict[Node, list[Layer]]:
    """Nodes with constants for each channel whose only readers (through sites) are linear layers -> those layers."""
    layers = {layer.node: layer for layer in layers_of(graph) if not layer.recurrent}
    shared = shared_tensors(graph)
    found: dict[Node, list[Layer]] = {}
    for node in graph.module.graph.nodes:
        norm, constants = entry_of(node).kind == "layer_norm", _constants_of(graph, node)
        if not norm and not constants:
            continue
        ends = _ends(graph, node)
        linear = bool(ends) and all(end in layers and layers[end].linear for end in ends)
        mine = [layers[end] for end in ends] if linear else []
        if not linear or not constants:
            if norm and not any(_constants_of(graph, end) for end in ends):
                notes.append(f"{node.name} feeds more than linear layers or has no weight, and is left alone")
        elif any(map(shared, [*constants, *(layer.weight.weight for layer in mine)])):
            notes.append(f"{node.name} or a layer behind it shares its weight, and is left alone")
        else:
            found[node] = mine
    return found


def _ends(graph: Graph, node: Node) -> list[Node]:
    """The operations that read a value, through its sites."""
    found: list[Node] = []
    for user in node.users:
        if activation_at(graph.module, user) is not None:
            found += _ends(graph, user)
        else:
            found.append(user)
    return found


def _constants_of(graph: Graph, node: Node) -> list[Tensor]:
    """The constants of each channel that a node has, to be changed in place."""
    return [attribute_at(graph.module, str(arg.target)) for arg in channel_constants(node)]
