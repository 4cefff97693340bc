"""Biases: rounded exactly as integer runtimes round them, to int32 multiples of input step x weight step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from bitwright.numerics.affine import Affine, straight_through
from bitwright.quantizers.base import Quantizer
from bitwright.quantizers.remembered import Remembered

# Integer kernels add the products up in the same 32 bits, so one bit is left to them: a sum beyond int32 wraps around.
LARGEST = float(2**30)


class BiasQuantizer(nn.Module):
    """Follows its operation's input and weight: rounds when both are quantized, else passes the bias through.

    It is no site of its own: integer runtimes leave no choice of width here. Repairs may put another bias in its
    place at a weight's width (:meth:`correct`); with the weight in float the original bias is always used.

    Args:
        name: of the bias.
        table: site name -> what stands there now: the graph's own table.
        inputs: the site of the operation's input; None where the runtime leaves the bias in float.
        weight: the site of its weight.

    Attributes:
        input_site: name of the operation's input's site, or None.
        weight_site: name of its weight's.
        corrections: width of the weight -> the bias that a repair put in the place of the network's own.
    """

    def __init__(self, name: str, table: Mapping[str, Quantizer], inputs: str | None, weight: str) -> None:
        super().__init__()
        self.name = name
        self._table, self.input_site, self.weight_site = table, inputs, weight
        self._rounded = Remembered[Tensor | None](1)
        self._settled = Remembered[Affine]()
        self.corrections: dict[int, Tensor] = {}

    def _grids(self) -> tuple[Affine, Affine] | None:
        """The present grids of input and weight; None where one of them is in float, and the bias with it."""
        if self.input_site is None:
            return None
        inputs, weight = self._table[self.input_site], self._table[self.weight_site]
        if inputs.bits is None or weight.bits is None or inputs.dynamic:
            return None
        return inputs.grid(inputs.bits), weight.grid(weight.bits)

    def correct(self, bits: int, bias: Tensor | None) -> None:
        """Use another bias whenever the weight has this width; None takes the correction back."""
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

    def settle(self, bias: Tensor) -> None:
        """Give the weight larger steps than its present ones in channels whose bias does not fit into int32 otherwise.

        Such a channel is a dead one: batch norm scales it with next to nothing, and adds a bias of ordinary size. Its
        step is multiplied by the smallest power of two with which the bias fits, and the whole layer can run in
        integers. With K weights a channel its output moves by at most K / 2^22 of the bias, which is less than a step
        of an 8-bit output. A weight with one step for all channels, or with learned integers, keeps its grid, as does
        everything above 8 bits, for which there are no integer kernels.
        """
        weight, grids = self._table[self.weight_site], self._grids()
        if grids is None or weight.settling is None or weight.site.scheme.granularity != "channel":
            return
        if any(affine.high - affine.low > 255 for affine in grids):
            return
        effective = self.effective(bias)
        make = partial(self._with_larger_steps, grids, effective)
        larger = self._settled.of([*grids, effective], make, effective._version)
        if larger is not grids[1]:
            weight.settle(larger)

    def _with_larger_steps(self, grids: tuple[Affine, Affine], bias: Tensor) -> Affine:
        """The weight's grid with steps that let a bias fit; itself where its own do."""
        own = grids[1]
        factors = _factors(bias, grids[0].scale.cpu() * own.scale.flatten().cpu())
        if not bool((factors > 1).any()):
            return own
        scale = (own.scale.double() * factors.reshape(own.scale.shape).to(own.scale.device)).float()
        return replace(own, scale=scale)

    def scale(self, bias: Tensor | None = None) -> Tensor | None:
        """(channels,) or (1,) step sizes at the present widths; None when the bias stays in float.

        Input step x weight step; where the bias does not fit into int32 then (as with 16-bit weights and inputs), the
        smallest power of two times that with which it fits. Without a bias the plain product.
        """
        grids = self._grids()
        if grids is None or self._table[self.weight_site].site.scheme.granularity == "group":
            return None
        plain = grids[0].scale.cpu() * grids[1].scale.flatten().cpu()
        if bias is None:
            return plain
        return (plain * _factors(self.effective(bias), plain)).float()

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
        grids, bias = self._grids(), self.effective(bias)
        if grids is None:
            return bias
        rounded = self._rounded.of([*grids, bias], partial(self._round, bias), bias._version, bias.device)
        return bias if rounded is None else straight_through(rounded, bias)

    def _round(self, bias: Tensor) -> Tensor | None:
        scale = self.scale(bias)
        if scale is None:
            return None
        scale = scale.to(bias.device)
        with torch.no_grad():
            return torch.div(bias, scale).round_().clamp_(-LARGEST, LARGEST).mul_(scale)


def _factors(bias: Tensor, steps: Tensor) -> Tensor:
    """Powers of two, at least 1, in float64 and the shape of ``steps``, that make the steps large enough for a bias."""
    needed = bias.detach().cpu().double().abs() / (steps.double() * LARGEST)
    if steps.numel() == 1:
        needed = needed.max().reshape(steps.shape)
    return 2.0 ** needed.clamp_min(1.0).log2().ceil()
