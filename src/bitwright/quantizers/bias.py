"""Biases: rounded exactly as integer runtimes round them, to int32 multiples of input step x weight step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bitwright.numerics.affine import straight_through
from bitwright.quantizers.base import Quantizer

# float32 cannot hold 2^31 - 1; the largest float below it is used, in the simulation and in the exported file alike.
LARGEST = float(2**31 - 128)


class BiasQuantizer(nn.Module):
    """Follows its operation's input and weight: rounds when both are quantized, else passes the bias through.

    It is no site of its own: integer runtimes leave no choice of width here. Repairs may put another bias in its
    place at a weight's width (:meth:`correct`); with the weight in float the original bias is always used.

    Args:
        name: of the bias.
        table: site name -> what stands there now: the graph's own table.
        inputs: the site of the operation's input.
        weight: the site of its weight.

    Attributes:
        input_site: name of the operation's input's site.
        weight_site: name of its weight's.
        corrections: width of the weight -> the bias that a repair put in the place of the network's own.
    """

    def __init__(self, name: str, table: Mapping[str, Quantizer], inputs: str, weight: str) -> None:
        super().__init__()
        self.name = name
        self._table, self.input_site, self.weight_site = table, inputs, weight
        self._kept: tuple[Any, Tensor, Any] | None = None
        self.corrections: dict[int, Tensor] = {}

    @property
    def _sources(self) -> tuple[Quantizer, Quantizer]:
        return self._table[self.input_site], self._table[self.weight_site]

    def correct(self, bits: int, bias: Tensor | None) -> None:
        """Use another bias whenever the weight has this width; None takes the correction back."""
        self._kept = None
        self.corrections.pop(bits, None)
        if bias is not None:
            self.corrections[bits] = bias.detach().clone()

    def effective(self, bias: Tensor) -> Tensor:
        """The bias before it is rounded, at the present width of the weight: the original or a repair's."""
        bits = self._table[self.weight_site].bits
        if bits is None or bits not in self.corrections:
            return bias
        found = self.corrections[bits]
        if found.device != bias.device:
            found = self.corrections[bits] = found.to(bias.device)
        return found

    def scale(self, bias: Tensor | None = None) -> Tensor | None:
        """(channels,) or (1,) step sizes at the present widths; None when the bias stays in float.

        Input step x weight step; where the bias does not fit into int32 then (as with 16-bit weights and inputs), the
        smallest power of two times that with which it fits. Without a bias the plain product.
        """
        inputs, weight = self._sources
        if inputs.bits is None or weight.bits is None or weight.site.scheme.granularity == "group":
            return None
        plain = inputs.grid(inputs.bits).scale.cpu() * weight.grid(weight.bits).scale.flatten().cpu()
        if bias is None:
            return plain
        needed = self.effective(bias).detach().cpu().double().abs() / (plain.double() * LARGEST)
        if plain.numel() == 1:
            needed = needed.max().reshape(plain.shape)
        return (plain * 2.0 ** needed.clamp_min(1.0).log2().ceil()).float()

    def integers(self, bias: Tensor) -> Tensor:
        """The int32 values as float64, (channels,)."""
        scale = self.scale(bias)
        assert scale is not None
        return torch.div(self.effective(bias).detach().cpu(), scale).round_().clamp_(-LARGEST, LARGEST).double()

    def saturated(self, bias: Tensor) -> bool:
        """Whether some bias does not fit into int32 in steps of input step x weight step, and gets larger ones."""
        scale = self.scale()
        return scale is not None and bool((self.effective(bias).detach().cpu() / scale).abs().max() > LARGEST)

    def forward(self, bias: Tensor) -> Tensor:
        """Round, with a straight-through gradient, or pass through."""
        inputs, weight = self._sources
        bias = self.effective(bias)
        if inputs.bits is None or weight.bits is None:
            self._kept = None
            return bias
        grids = inputs.grid(inputs.bits), weight.grid(weight.bits)
        key = (id(grids[0]), id(grids[1]), id(bias), bias._version, bias.device)
        if self._kept is None or self._kept[0] != key:
            scale = self.scale(bias)
            if scale is None:
                return bias
            with torch.no_grad():
                steps = torch.div(bias, scale.to(bias.device)).round_().clamp_(-LARGEST, LARGEST)
                made_of = bias, grids  # kept alive, so that the ids stay theirs
                self._kept = (key, steps.mul_(scale.to(bias.device)), made_of)
        return straight_through(self._kept[1], bias)
