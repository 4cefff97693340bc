"""Size of the parameters in bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bitwright.cost.model import FLOAT_BITS, CostTerms, Width
from bitwright.errors import InvalidInput
from bitwright.values import Policy, Site, Sites

SCALE_BYTES = 4
ZERO_POINT_BYTES = 1


def native_bits(bits: int) -> int:
    """The width that a runtime stores ``bits`` in: 2 to 4 bits in 4, 5 to 8 in 8, 9 to 16 in 16."""
    return 4 if bits <= 4 else 8 if bits <= 8 else 16


@dataclass(frozen=True)
class Size:
    """Bytes of all parameters: weights at their bits, scales, zero points, and the rest in float.

    A quantized weight site takes numel * bits / 8 bytes, 4 bytes for each scale, and 1 byte for each zero
    point if it is asymmetric. Weights in float and ``sites.other_parameters`` take 4 bytes an element.

    Attributes:
        storage: ``"packed"`` counts exactly the bits of the policy; ``"native"`` counts what a runtime
            stores: 2 to 4 bits in 4, 5 to 8 in 8, 9 to 16 in 16.
    """

    storage: Literal["packed", "native"] = "packed"
    name: str = "size"
    unit: str = "bytes"

    def __post_init__(self) -> None:
        if self.storage not in ("packed", "native"):
            raise InvalidInput(f"storage must be 'packed' or 'native', got {self.storage!r}")

    def of_site(self, site: Site, bits: Width) -> float:
        """Bytes of one weight site."""
        if bits is None:
            return site.numel * FLOAT_BITS / 8
        stored = bits if self.storage == "packed" else native_bits(bits)
        parameters = SCALE_BYTES + (0 if site.scheme.symmetric else ZERO_POINT_BYTES)
        return site.numel * stored / 8 + site.scales * parameters

    def of(self, policy: Policy, sites: Sites) -> float:
        """Bytes of all parameters under a policy; float weights count 32 bits."""
        weights = sum(self.of_site(site, policy[site.name]) for site in sites.weights)
        return weights + sites.other_parameters * FLOAT_BITS / 8

    def terms(self, sites: Sites, bits: Sequence[Width]) -> CostTerms:
        """The decomposition: one term for each weight site."""
        linear = {site.name: {b: self.of_site(site, b) for b in bits} for site in sites.weights}
        return CostTerms(sites.other_parameters * FLOAT_BITS / 8, linear)
