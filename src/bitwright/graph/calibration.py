"""Calibration: every activation quantizer watches the values that pass and chooses its range from them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from bitwright.arguments import checked
from bitwright.errors import BitwrightWarning, InvalidData
from bitwright.graph.batches import as_batches, iterate
from bitwright.graph.graph import Graph
from bitwright.graph.input_rows import InputRows
from bitwright.graph.layers import Layer, layers_of
from bitwright.graph.places import site_calls
from bitwright.graph.uneven import uneven_joins
from bitwright.graph.walk import Call, Hook, Walk
from bitwright.numerics.outputs import InputMoments
from bitwright.numerics.ranges import Observed, check_method
from bitwright.settings import DEFAULTS
from bitwright.values import FLOAT

SAMPLE = 1 << 17  # values kept for each site, about 131,000


class _Watch:
    """Keeps the extremes and a random sample of the values at one site."""

    def __init__(self, seed: int, quota: int) -> None:
        self.low = torch.tensor(torch.inf)
        self.high = torch.tensor(-torch.inf)
        self.parts: list[Tensor] = []
        self.count = 0
        self.quota = quota
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, call: Call) -> Any:
        values = call.args[0].detach().reshape(-1)
        low, high = torch.aminmax(values)
        self.low, self.high = torch.minimum(self.low, low.cpu()), torch.maximum(self.high, high.cpu())
        self.count += values.numel()
        if values.numel() > self.quota:
            chosen = torch.randint(values.numel(), (self.quota,), generator=self.generator)
            values = values[chosen.to(values.device)]
        self.parts.append(values.float().cpu().clone())
        return call()

    def observed(self) -> Observed:
        return Observed(float(self.low), float(self.high), torch.cat(self.parts), self.count)


@dataclass(frozen=True)
class _ChannelErrors:
    """(channels,) mean squared output error that an error of the weight makes, along the weight's channel axis."""

    layer: Layer
    moments: InputMoments

    def __call__(self, error: Tensor) -> Tensor:
        found = self.moments.output_error(self.layer.matrix(error))
        return found.sum(0) if self.layer.transposed else found.flatten()

    def __deepcopy__(self, memo: Any) -> _ChannelErrors:
        return self  # a copied graph has layers of the same geometry and inputs; nodes cannot be copied one by one


@checked
def calibrate(
    graph: Graph,
    batches: Any,
    ranges: str | None = DEFAULTS.ranges,
    percentile: float = 99.99,
    seed: int = DEFAULTS.seed,
) -> Graph:
    """Watch the float activations on some batches and set every range.

    Args:
        graph: from :func:`capture`; its policy is left as it was.
        batches: iterable of (inputs, targets); a few hundred samples are enough.
        ranges: ``"minmax"``, ``"percentile"`` or ``"mse"``; None for the method that each site has.
        percentile: for ``ranges="percentile"``, in percent.
        seed: of the random sample of values that percentile and mse look at.

    Returns:
        The graph itself. A warning says where values of very different sizes are joined on one grid.

    Raises:
        InvalidData: no batch, or values that are not finite.
    """
    if ranges is not None:
        check_method(ranges)
    data = as_batches(batches)
    try:
        count = len(data)  # type: ignore[arg-type]
    except TypeError:
        data = list(data)
        count = len(data)
    watches = {
        name: _Watch(seed + i, max(1, SAMPLE // max(count, 1)))
        for i, (name, quantizer) in enumerate(graph.quantizers.items())
        if quantizer.site.kind == "activation"
    }
    rows = InputRows(graph, count, seed)
    calls = site_calls(graph.module).items()
    at_sites = {node: watches[q.site.name] for node, q in calls if q.site.name in watches}
    hooks: dict[Node, Hook] = {**at_sites, **rows.hooks}
    walk = Walk(graph.module)
    with graph.applied(FLOAT), torch.no_grad():
        for inputs, _ in iterate(data, graph, "calibration"):
            graph.check(inputs)
            walk(inputs, hooks)
    watched = {name: watch for name, watch in watches.items() if watch.parts}
    for name, watch in watched.items():
        if not bool(torch.isfinite(watch.low) & torch.isfinite(watch.high)):
            raise InvalidData(f"the activations at '{name}' are not finite; check weights and inputs")
    graph.forget_fitted()
    for name, watch in watched.items():
        graph.quantizers[name].observe(watch.observed())
    moments = rows.moments()
    for layer in layers_of(graph):
        if layer.weight.site.name in moments:
            layer.weight.observe(_ChannelErrors(layer, moments[layer.weight.site.name]))
    for quantizer in graph.quantizers.values():
        if ranges is None:
            quantizer.refit()
        else:
            quantizer.set_ranges(ranges, percentile)
    for sentence in uneven_joins(graph.module):
        warnings.warn(sentence, BitwrightWarning, stacklevel=2)
    return graph
