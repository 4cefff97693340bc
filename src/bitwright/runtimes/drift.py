"""Where an exported file begins to differ from the simulation, site by site."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bitwright.graph.graph import Graph
from bitwright.graph.places import activation_at
from bitwright.graph.walk import Call, Walk
from bitwright.runtimes.runtime import Runtime
from bitwright.values import Drift

_SAMPLES = 8


def first_drift(
    graph: Graph, runtime: Runtime, path: str | Path, inputs: Sequence[Tensor], optimised: bool, threads: int = 1
) -> Drift | None:
    """The first activation site, in the order of execution, at which a file and the simulation differ.

    What comes behind it differs because of it; what runs beside it may have a cause of its own.

    Returns:
        None where all sites agree, or where the runtime does not show them.
    """
    few = [value[:_SAMPLES] for value in inputs]
    unrounded: dict[str, Tensor] = {}
    simulated: dict[str, Tensor] = {}

    def watch(name: str) -> Callable[[Call], Any]:
        def note(call: Call) -> Any:
            value = call()
            unrounded.setdefault(name, call.args[0].detach().cpu().double())
            simulated.setdefault(name, value.detach().cpu().double())
            return value

        return note

    stand = ((node, activation_at(graph.module, node)) for node in graph.module.graph.nodes)
    hooks = {node: watch(quantizer.site.name) for node, quantizer in stand if quantizer is not None and quantizer.bits}
    with torch.no_grad():
        Walk(graph.module)(few, hooks)
    found = runtime.site_values(path, few, tuple(simulated), optimised, threads)
    for name, value in simulated.items():
        other = found.get(name)
        if other is None or other.size != value.numel():
            continue
        quantizer = graph.quantizers[name]
        assert quantizer.bits is not None
        step = float(quantizer.grid_for(unrounded[name], quantizer.bits).scale)
        apart = (torch.from_numpy(other).reshape(value.shape) - value).abs() / step
        differs = apart > 0.5
        if bool(differs.any()):
            places = unrounded[name].expand_as(value)[differs] / step
            middle = float((places - places.floor() - 0.5).abs().max())
            share = float(differs.double().mean())
            return Drift(name, quantizer.site.operation, float(apart.max()), share, middle)
    return None
