"""Tensors made visible: the distribution at a site by tensor, channel, token and embedding dimension, with its grid."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from bitwright.arguments import checked
from bitwright.errors import InvalidData, InvalidInput
from bitwright.graph.batches import as_batches, iterate
from bitwright.graph.graph import Graph
from bitwright.graph.operations import entry_of
from bitwright.graph.places import site_calls
from bitwright.graph.walk import Call, Walk
from bitwright.numerics.affine import Affine, blocked, unblocked
from bitwright.quantizers.base import Quantizer
from bitwright.values import FLOAT, check_bits
from bitwright.values.tensors import QUANTILES, AxisView, TensorView

VALUES = 1 << 22  # activation values looked at, about four million
BINS = 128

Axes = list[tuple[str, int]]


@checked
def tensor_view(graph: Graph, site: str, batches: Any = None, bits: int = 8, *, samples: int = 64) -> TensorView:
    """Look at the tensor at a site: how its values are spread, and what the grid at a width does to them.

    Args:
        graph: calibrated; its policy is left as it was.
        site: a weight or an activation.
        batches: for activations: iterable of (inputs, targets). The float model runs on the first of them.
        bits: width of the grid.
        samples: inputs to look at, fewer where the activation is large (about four million values are kept).

    Raises:
        InvalidInput: unknown site, bits out of range, an activation without batches or without a range.
        InvalidData: no data.
    """
    quantizer = graph.quantizers[graph.sites[site].name]
    check_bits(bits, site)
    if quantizer.site.kind == "weight":
        tensor = quantizer.weight.detach()
    elif batches is None:
        raise InvalidInput(f"site '{site}' is an activation; pass batches to see its values")
    else:
        tensor = _activation(graph, quantizer, batches, samples)
    quantizer.check_range(bits)
    with torch.no_grad():
        rounded = quantizer.rounded(bits, tensor)
        return _view(graph, site, tensor, rounded, quantizer.grid_for(tensor, bits).to(tensor.device), bits)


def _activation(graph: Graph, quantizer: Quantizer, batches: Any, samples: int) -> Tensor:
    """(n, ...) float values at a site."""
    if samples < 1:
        raise InvalidInput(f"samples must be at least 1, got {samples}")
    wanted = max(1, min(samples, VALUES // max(quantizer.site.numel, 1)))
    parts: list[Tensor] = []
    walk, nodes = Walk(graph.module), [n for n, found in site_calls(graph.module).items() if found is quantizer]
    with graph.applied(FLOAT), torch.no_grad():
        for inputs, _ in iterate(as_batches(batches), graph, "looking at a tensor"):
            graph.check(inputs)
            passed: list[Tensor] = []

            def look(call: Call, passed: list[Tensor] = passed) -> Any:
                passed.append(call.args[0])
                return call()

            walk(inputs, dict.fromkeys(nodes, look))
            # A grid that several tensors share is passed several times; they are looked at together where they fit.
            parts += [part.detach() for part in passed if part.shape[1:] == passed[0].shape[1:]]
            if sum(len(part) for part in parts) >= wanted:
                break
    if not parts:
        raise InvalidData(f"no value passes site '{quantizer.site.name}'")
    tensor = torch.cat(parts)[:wanted] if parts[0].dim() else torch.stack(parts)
    if not bool(torch.isfinite(tensor).all()):
        raise InvalidData(f"the activations at '{quantizer.site.name}' are not finite; check weights and inputs")
    return tensor


def _view(graph: Graph, site: str, tensor: Tensor, rounded: Tensor, affine: Affine, bits: int) -> TensorView:
    scale, zero = _elementwise(affine, tensor)
    place = torch.div(tensor, scale).round_().add_(zero)
    clipped = (place < affine.low) | (place > affine.high)
    to_zero = (rounded == 0) & (tensor != 0)
    values = tensor.double()
    squares, errors = values.square(), (rounded.double() - values).square_()
    low, high = float(values.min()), float(values.max())
    mean, deviation = float(values.mean()), float(values.std(correction=0))
    standardized = (values - mean).div_(deviation or 1.0)
    counts = torch.histc(tensor.float(), BINS, low, high) if high > low else torch.tensor([float(tensor.numel())])
    edges = [low + (high - low) * i / len(counts) for i in range(len(counts) + 1)]
    steps = affine.scale.double().flatten()
    zeros = affine.zero_point.double().expand_as(affine.scale).flatten()
    axes = []
    for name, axis in _axes(graph, site, tensor):
        axes.append(_along(name, axis, tensor, clipped, to_zero, squares, errors))
    return TensorView(
        site,
        graph.sites[site].kind,
        tuple(tensor.shape),
        bits,
        low,
        high,
        mean,
        deviation,
        float(standardized.pow_(4).mean()),
        tuple(edges),
        tuple(int(n) for n in counts.tolist()),
        tuple(steps.tolist()),
        tuple(((affine.low - zeros) * steps).tolist()),
        tuple(((affine.high - zeros) * steps).tolist()),
        float(clipped.double().mean()),
        float(to_zero.double().mean()),
        _decibels(float(squares.sum()), float(errors.sum())),
        tuple(axes),
        graph.graph_hash,
    )


def _elementwise(affine: Affine, tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Step and zero point of each element, broadcastable to the tensor."""
    if affine.group_size is None:
        return affine.scale, affine.zero_point
    shape = blocked(tensor, affine.group_size).shape
    return (
        unblocked(affine.scale.expand(shape), tensor.shape),
        unblocked(affine.zero_point.expand(shape), tensor.shape),
    )


def _decibels(signal: float, noise: float) -> float:
    if noise <= 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def _along(
    name: str, axis: int, tensor: Tensor, clipped: Tensor, to_zero: Tensor, squares: Tensor, errors: Tensor
) -> AxisView:
    def rows(values: Tensor) -> Tensor:
        return values.movedim(axis, 0).flatten(1)

    own = rows(tensor)
    # Quantiles of very large tensors come from every k-th value; everything else is exact.
    every = max(1, own.numel() // VALUES)
    part = own[:, ::every].float().sort(dim=1).values
    picks = [round(share * (part.shape[1] - 1)) for share in QUANTILES]
    signals, noises = rows(squares).sum(1).tolist(), rows(errors).sum(1).tolist()
    return AxisView(
        name,
        axis,
        tuple(own.amin(1).double().tolist()),
        tuple(own.amax(1).double().tolist()),
        tuple(tuple(row) for row in part[:, picks].double().tolist()),
        tuple(rows(clipped).double().mean(1).tolist()),
        tuple(rows(to_zero).double().mean(1).tolist()),
        # A slice of zeros loses nothing.
        tuple(_decibels(s, n) if s > 0 else math.inf for s, n in zip(signals, noises, strict=True)),
    )


def _axes(graph: Graph, site: str, tensor: Tensor) -> Axes:
    """What the axes of a site's tensor mean, the batch left out."""
    nodes = [node for node, quantizer in site_calls(graph.module).items() if quantizer.site.name == site]
    if graph.sites[site].kind == "weight":
        user = next(iter(nodes[0].users), None) if nodes else None
        role = entry_of(user).weight if user is not None else None
        if role is not None and role.lookup:
            return [("token", 0), ("embedding", 1)]
        output = role.channel_axis if role is not None else 0
        return [("output channel", output), ("input channel", 1 - output)] if tensor.dim() > 1 else [("channel", 0)]
    if tensor.dim() == 2:
        return [("feature", 1)]
    if tensor.dim() < 2:
        return []
    if nodes and _is_sequence(nodes[0], tensor.dim()):
        names = {3: ["token", "embedding"], 4: ["head", "token", "embedding"]}.get(tensor.dim(), [])
        return [(name, i + 1) for i, name in enumerate(names)]
    return [("channel", 1)]


def _is_sequence(node: Node, dims: int) -> bool:
    """Whether the nearest layer before a value, or else after it, works on its last axis, as transformers do.

    A value of three axes that comes from a 2d convolution is a sequence of patches.
    """
    for neighbours in (lambda n: n.all_input_nodes, lambda n: list(n.users)):
        queue, seen = deque([node]), {node}
        while queue:
            here = queue.popleft()
            if here is not node:
                entry = entry_of(here)
                if entry.features_last:
                    return True
                if entry.layer is not None:
                    return dims == 3 and entry.layer.dims != 1
            for other in neighbours(here):
                if other not in seen and other.op != "get_attr":
                    seen.add(other)
                    queue.append(other)
    return False
