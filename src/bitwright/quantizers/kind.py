"""Quantizers by name: what can be put at a site in place of what the placement put there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bitwright.quantizers.base import Quantizer
from bitwright.registry import Descriptor, Registry


@dataclass(frozen=True, kw_only=True, eq=False)
class QuantizerKind(Descriptor):
    """A function ``(site) -> Quantizer`` for a site of the kind that it is made for.

    ``graph.put`` gives the quantizer the float weight; the repair ``put`` what calibration saw of an activation.
    """

    function: Callable[..., Quantizer]
    given: tuple[str, ...] = ("site",)


QUANTIZERS: Registry[QuantizerKind] = Registry("quantizer", "bitwright.quantizers")
"""What the repair ``put`` can put at a site."""
