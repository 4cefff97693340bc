"""Ranges site by site: other methods, by what they do to the outputs of a layer or of the network; granularity."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import Node

from bitwright.errors import InvalidInput
from bitwright.graph.batches import Batch
from bitwright.graph.graph import Graph
from bitwright.graph.layers import Layer, Positions, layers_of
from bitwright.graph.places import site_calls
from bitwright.graph.twins import Lane, Twins
from bitwright.graph.walk import Hook, Walk, unrounded
from bitwright.numerics.affine import Affine, fake_quantize
from bitwright.numerics.ranges import METHODS
from bitwright.numerics.steps import position_of, rounded_up, step_at, stride, tie_free
from bitwright.quantizers.base import Quantizer
from bitwright.repair.checks import checked_batches, checked_policy
from bitwright.repair.descriptor import registered
from bitwright.repair.report import Change, RepairReport
from bitwright.repair.steps import fitted_affine, full_step, gram_of, output_errors
from bitwright.sensitivity.sweep import Tally
from bitwright.settings import DEFAULTS
from bitwright.tasks import Task, task_for
from bitwright.tasks.base import Answer
from bitwright.tasks.columns import FloatSide
from bitwright.values import Policy
from bitwright.values.site import Granularity

ROWS = 8192
FACTORS = tuple(2.0 ** (-k / 8) for k in range(-2, 15))  # of the present step that the method 'distance' tries


def _coarse(graph: Graph) -> bool:
    return any(site.scheme.granularity == "tensor" for site in graph.sites.weights)


@registered(
    name="granularity",
    order=40,
    does="Weights get one step for each output channel, or for each group of inputs.",
    changes="the grids of weights; the file gets more scales",
    called="one step for each channel of the weights",
    lasting=True,
    moves=("weight grids",),
    mends={"weights": {}},
    worthwhile=_coarse,
)
def set_granularity(
    graph: Graph,
    batches: Any = None,
    *,
    granularity: str = "channel",
    group_size: int | None = None,
    sites: Iterable[str] | None = None,
) -> RepairReport:
    """Give weights one step for the ``"tensor"``, for each output ``"channel"``, or for each ``"group"`` of inputs.

    Args:
        graph: the graph.
        batches: not needed.
        granularity: as above.
        group_size: for ``"group"``: input elements that share a step, at least 2.
        sites: weight sites; None for all.

    Returns:
        For each site its number of steps before and after.

    Raises:
        InvalidInput: an unknown granularity, sites that are no weights, or groups where there can be none.
    """
    if granularity not in ("tensor", "channel", "group"):
        raise InvalidInput(f"granularity must be tensor, channel or group, got '{granularity}'")
    if granularity == "group" and (group_size is None or group_size < 2):
        raise InvalidInput(f"group_size must be at least 2 for granularity='group', got {group_size}")
    axes = _channel_axes(graph)
    changes = []
    policy = graph.policy
    chosen = [site.name for site in graph.sites.weights] if sites is None else list(sites)
    for name in chosen:
        site = graph.sites[name]
        if site.kind != "weight":
            raise InvalidInput(f"granularity is for weights, site '{name}' is an activation")
        axis = axes.get(name, 0)
        if granularity == "group" and axis != 0:
            raise InvalidInput(f"site '{name}' is a transposed convolution's weight, which cannot have steps per group")
    for name in chosen:
        site = graph.sites[name]
        scheme = replace(
            site.scheme,
            granularity=cast(Granularity, granularity),
            axis=None if granularity == "tensor" else axes.get(name, 0),
            group_size=group_size if granularity == "group" else None,
        )
        graph.set_scheme(name, scheme)
        changes.append(Change(name, "steps", float(site.scales), float(graph.sites[name].scales)))
    graph.apply(policy)
    return RepairReport("no data", tuple(changes))


def _channel_axes(graph: Graph) -> dict[str, int]:
    """Weight site -> the axis of its output channels."""
    return {layer.weight.site.name: 1 if layer.transposed else 0 for layer in layers_of(graph)}


def _wanted(graph: Graph, weights: str | None, activations: str | None, sites: Mapping[str, str]) -> dict[str, str]:
    by_kind = {"weight": weights, "activation": activations}
    for name in sites:
        graph.sites[name]  # raises with the nearest name
    layers = {layer.weight.site.name for layer in layers_of(graph)}
    found: dict[str, str] = {}
    for site in graph.sites:
        method = sites.get(site.name, by_kind[site.kind])
        if method is None:
            continue
        if method not in (*METHODS, *FITTED):
            raise InvalidInput(f"method must be one of {', '.join((*METHODS, *FITTED))}, got '{method}'")
        if method == "output" and site.name not in layers:
            if site.name in sites or site.kind == "activation":
                raise InvalidInput(f"'{method}' is for the weights of layers, and site '{site.name}' does not hold one")
            continue
        found[site.name] = method
    return found


def _mean_step(quantizer: Quantizer, policy: Policy) -> float:
    bits = policy[quantizer.site.name]
    if bits is None or not quantizer.calibrated:
        return 0.0
    return float(quantizer.grid(bits).scale.mean())


def _fit_by_output(graph: Graph, data: list[Batch], names: Iterable[str], task: Any, seed: int) -> None:
    """Layer by layer in the order of execution, each with inputs from the network as it is by then."""
    layers: dict[Node, Layer] = {}
    met: set[str] = set()
    for layer in layers_of(graph):
        name = layer.weight.site.name
        if name in names and name not in met:
            layers[layer.node] = layer
        met.add(name)
    generator = torch.Generator().manual_seed(seed)
    samples = sum(len(inputs[0]) for inputs, _ in data)
    twins = Twins(graph, [inputs for inputs, _ in data])
    for node in twins.stops(layers):
        layer, bits = layers[node], layers[node].bits
        each = max(1, ROWS // samples)
        rows = [
            Positions(layer, output, each, generator).inputs(value)
            for output, value in zip(twins.products(twins.float, layer), twins.entering(layer), strict=True)
        ]
        gram = gram_of(torch.cat(rows, 1), False)
        matrix = layer.matrix(layer.weight.weight.detach()).float()
        affine = fitted_affine(layer, bits, gram)
        if _nearest_error(layer, affine, matrix, gram) <= _nearest_error(layer, layer.weight.grid(bits), matrix, gram):
            layer.weight.fix(bits, affine)


def _nearest_error(layer: Layer, grid: Affine, matrix: Tensor, gram: Tensor) -> float:
    """Squared output error of rounding to nearest on a grid, summed over channels."""
    step = full_step(layer, grid)
    rounded = (matrix / step).round().clamp(grid.low, grid.high) * step
    return float(output_errors(rounded - matrix, gram).sum())


def _fit_by_distance(graph: Graph, data: list[Batch], names: Iterable[str], task: Any, seed: int) -> None:
    """Choose among multiples of each site's present step by the distance of the outputs, this site alone quantized."""
    meant = task_for(graph, data, task, purpose="repair 'ranges'")
    for name in names:
        quantizer = graph.quantizers[name]
        assert quantizer.bits is not None
        present = quantizer.grid(quantizer.bits)
        grids = [_rescaled(quantizer, present, scale) for scale in _scales(quantizer, present)]
        walk, float_hooks = Walk(graph.module), unrounded(graph.module)
        mine = [node for node, site in site_calls(graph.module).items() if site is quantizer]
        lane = Lane(walk, [inputs for inputs, _ in data], float_hooks)
        tallies, floats = [Tally(meant) for _ in grids], FloatSide(meant)
        with torch.no_grad():
            lane.to(walk.start([name]))
            expected = [
                Answer(meant, outputs, targets, len(inputs[0]))
                for outputs, (inputs, targets) in zip(lane.outputs(), data, strict=True)
            ]
            for one in expected:
                floats.add(one)
            for grid, tally in zip(grids, tallies, strict=True):
                hooks = {**float_hooks, **dict.fromkeys(mine, _rounding(grid))}
                for one, outputs in zip(expected, lane.outputs(hooks), strict=True):
                    tally.add(one, outputs)
        distances = [tally.distance(floats) for tally in tallies]
        quantizer.fix(quantizer.bits, grids[distances.index(min(distances))])


def _scales(quantizer: Quantizer, present: Affine) -> list[Tensor]:
    """The multiples of the present step that are tried, each once."""
    finest, found = stride(present.low, present.high), {}
    for factor in FACTORS:
        position = rounded_up(position_of(present.scale * factor), finest)
        if quantizer.site.kind == "weight":
            position = tie_free(position, present.low, present.high)
        found[float(position.double().mean())] = step_at(position).reshape(present.scale.shape)
    return list(found.values())


def _rescaled(quantizer: Quantizer, present: Affine, scale: Tensor) -> Affine:
    zero = present.zero_point
    if not quantizer.site.scheme.symmetric:
        # The lower end of the range stays where it is as long as it can.
        zero = present.low + ((zero - present.low) * present.scale / scale).round()
        zero = zero.clamp(present.low, present.high)
    return Affine(scale.to(present.scale.device), zero, present.low, present.high, present.group_size)


def _rounding(affine: Affine) -> Hook:
    return lambda call: fake_quantize(call.args[0], affine.to(call.args[0].device))


FITTED: Mapping[str, Callable[[Graph, list[Batch], Iterable[str], Any, int], None]] = MappingProxyType(
    {"output": _fit_by_output, "distance": _fit_by_distance}
)
"""Method -> what fits sites by it to the current policy: (graph, batches, sites, task, seed)."""


@registered(
    name="ranges",
    order=50,
    does=f"Sets ranges by another method: {', '.join((*METHODS, *FITTED))}.",
    needs="calibration data; a policy for the fitted methods",
    changes="the grids of all sites, of one kind, or of single sites",
    costs="nothing (minmax) to about ten float passes (output)",
    moves=("weight grids", "activation grids"),
    leaves="ranges",
)
def set_ranges(
    graph: Graph,
    batches: Any = None,
    policy: Policy | None = None,
    *,
    weights: str | None = None,
    activations: str | None = None,
    sites: Mapping[str, str] | None = None,
    percentile: float = 99.99,
    samples: int = DEFAULTS.calibration_samples,
    seed: int = DEFAULTS.seed,
    task: Task | str | None = None,
) -> RepairReport:
    """Set ranges by a method for all weights, all activations, or single sites.

    ``"minmax"``, ``"percentile"`` and ``"mse"`` are the methods of :func:`~bitwright.graph.calibrate`, at every width.
    The others choose a grid for the width that the policy gives a site:

    - ``"output"`` (weights): each channel's step by the output error (w - q) H (w - q)^T, H the second moments of the
      inputs that the layer meets in the quantized network, rounding to nearest;
    - ``"distance"`` (the last layers): the step with the smallest distance to float, as the task has it, of the outputs
      with this site alone quantized. The network behind the site is run for each step that is tried, so this is for
      the last weight, its input, or the outputs.

    Args:
        graph: calibrated.
        batches: calibration data, for the fitted methods.
        policy: the widths, for the fitted methods; None for the current policy.
        weights: method for every weight; None leaves them as they are.
        activations: method for every activation.
        sites: method for single sites, by name; goes before the other two.
        percentile: for ``"percentile"``, in percent.
        samples: calibration samples used, at most.
        seed: of the choice of positions.
        task: what the outputs mean, for ``"distance"``, as in :func:`~bitwright.tasks.evaluate`.

    Returns:
        For each site its mean step before and after.

    Raises:
        InvalidInput: unknown sites or methods, or a method that doesn't fit the site.
    """
    wanted = _wanted(graph, weights, activations, sites or {})
    if not wanted:
        raise InvalidInput("ranges need a method: pass weights=, activations= or sites={name: method}")
    fitted = {name: method for name, method in wanted.items() if method in FITTED}
    policy = checked_policy(graph, "ranges", policy) if fitted else (graph.policy if policy is None else policy)
    by_distance = "distance" in fitted.values()
    data = checked_batches(graph, "ranges", batches, samples, by_distance) if fitted else []
    notes: list[str] = []
    in_force = graph.policy
    before = {name: _mean_step(graph.quantizers[name], policy) for name in wanted}
    for name, method in wanted.items():
        if method not in FITTED:
            graph.quantizers[name].set_ranges(method, percentile)
        elif policy[name] is None:
            notes.append(f"{name} is in float under the policy and is left alone")
    fitted = {name: method for name, method in fitted.items() if policy[name] is not None}
    with graph.applied(policy):
        for method, fit in FITTED.items():
            if names := [name for name, wish in fitted.items() if wish == method]:
                fit(graph, data, names, task, seed)
    graph.apply(in_force)
    changes = tuple(
        Change(name, "step", before[name], after)
        for name in wanted
        if (after := _mean_step(graph.quantizers[name], policy)) != 0
    )
    count = sum(len(inputs[0]) for inputs, _ in data)
    needs = f"{count} calibration samples" if fitted else "what calibration saw"
    return RepairReport(needs, changes, tuple(notes), count)
