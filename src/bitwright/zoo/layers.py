"""Layers one after the other, by their names."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn


class Layers(nn.Sequential):
    """Named layers in their order; the input is called ``x``, and so is its site."""

    def __init__(self, **layers: nn.Module) -> None:
        super().__init__(OrderedDict(layers))

    def forward(self, x: Tensor) -> Tensor:
        """What the last layer makes of the input."""
        for layer in self:
            x = layer(x)
        return x
