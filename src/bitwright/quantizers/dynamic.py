"""The dynamic quantizer: every tensor that passes gets a grid of its own, from its smallest to its largest value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from bitwright.errors import InvalidInput
from bitwright.numerics.affine import Affine
from bitwright.numerics.ranges import Observed
from bitwright.quantizers.base import Quantizer


class DynamicQuantizer(Quantizer):
    """Rounds as ONNX's DynamicQuantizeLinear does, at any width, and needs no calibration.

    The grid reaches from the smallest to the largest value of the whole tensor, with 0.0 on it. So what becomes of a
    sample depends a little on the samples that run with it.
    """

    @property
    def dynamic(self) -> bool:
        """Always."""
        return True

    def grid(self, bits: int) -> Affine:
        """The grid for a tensor that reaches as far as what calibration saw."""
        if self.observed is None:
            raise InvalidInput(
                f"site '{self.site.name}' has no range yet; call bw.calibrate(graph, batches): its grids are made from "
                "each tensor, and what looks at steps needs to know how far tensors reach"
            )
        return self._between(torch.tensor(self.observed.low), torch.tensor(self.observed.high), bits)

    def grid_for(self, tensor: Tensor, bits: int) -> Affine:
        """The grid of a tensor."""
        if not tensor.numel():
            return self._between(tensor.new_zeros(()), tensor.new_zeros(()), bits)
        return self._between(*torch.aminmax(tensor.detach()), bits)

    def _between(self, smallest: Tensor, largest: Tensor, bits: int) -> Affine:
        low, high = self.site.scheme.integer_range(bits)
        bottom, top = smallest.clamp_max(0), largest.clamp_min(0)
        step = torch.where(top == bottom, 1.0, (top - bottom) / (high - low))
        zero = (low - bottom / step).clamp(low, high).round()
        return Affine(step, zero, low, high)

    def state(self, bits: Iterable[int] = ()) -> dict[str, Any]:
        """Nothing: no grid is kept."""
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        """Nothing is kept, so nothing is taken over."""

    def observe(self, seen: Observed | Any) -> None:
        """Keep how far values reach, for :meth:`grid`."""
        super().observe(seen)
