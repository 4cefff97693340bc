"""Rounding errors of a calibrated graph at several widths."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bitwright.graph.graph import Graph
from bitwright.numerics.affine import Affine, shortfall


class RoundingErrors:
    """Rounding errors Q(t) - t of a calibrated graph at several widths; those of weights are made once."""

    def __init__(self, graph: Graph, bits: Sequence[int]) -> None:
        self.bits = tuple(bits)
        self._quantizers = graph.quantizers
        self._weights: dict[str, Tensor] = {}
        self._grids: dict[tuple[str, int], Affine] = {}

    def of_weight(self, site: str) -> Tensor:
        """(B, numel) errors of a weight."""
        if site not in self._weights:
            quantizer = self._quantizers[site]
            weight = quantizer.weight.detach()
            rows = self._weights[site] = weight.new_empty(len(self.bits), weight.numel())
            for row, width in zip(rows, self.bits, strict=True):
                torch.sub(quantizer.rounded(width), weight, out=row.view(weight.shape))
        return self._weights[site]

    def turned(self, site: str, width: int, value: Tensor, out: Tensor) -> Tensor:
        """Errors of an activation at one of the widths with their sign turned, t - Q(t), written to ``out``."""
        grid, quantizer = self._grids.get((site, width)), self._quantizers[site]
        if grid is None:
            grid = quantizer.grid_for(value, self.bits[width]).to(value.device)
            if not quantizer.dynamic:
                self._grids[site, width] = grid
        return shortfall(value, grid, out)
