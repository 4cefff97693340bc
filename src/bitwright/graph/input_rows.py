"""A sample of what each weight is multiplied by."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bitwright.graph.graph import Graph
from bitwright.graph.layers import Layer, Positions, layers_of
from bitwright.graph.walk import Call, Hooks
from bitwright.numerics.outputs import InputMoments

ROWS = 2048  # kept for each weight with up to 1,024 inputs
ROWS_WIDE = 1024  # for wider ones


class InputRows:
    """Collects rows of input at random positions of random samples.

    Attributes:
        hooks: for the walks over the batches.
    """

    def __init__(self, graph: Graph, batches: int, seed: int) -> None:
        self.hooks: Hooks = {layer.node: partial(self._pick, layer) for layer in layers_of(graph)}
        self._batches = max(batches, 1)
        self._generator = torch.Generator().manual_seed(seed)
        self._rows: dict[str, list[Tensor]] = {}

    def _pick(self, layer: Layer, call: Call) -> Any:
        result = call()
        width = layer.matrix(layer.weight.weight).shape[2]
        quota = math.ceil((ROWS if width <= 1024 else ROWS_WIDE) / self._batches)
        each = math.ceil(quota / result.shape[0])
        rows = Positions(layer, result, each, self._generator).inputs(layer.role.entering(call.args, result))
        self._rows.setdefault(layer.weight.site.name, []).append(rows[:, :quota].float().cpu())
        return result

    def moments(self) -> dict[str, InputMoments]:
        """Weight site -> moments of its inputs, over all of its uses."""
        return {site: InputMoments.of(torch.cat(parts, 1)) for site, parts in self._rows.items()}
