"""Size of the parameters in bytes: as a runtime stores them, and packed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bitwright.cost.model import COSTS, FLOAT_BITS, Cost, CostTerms, WeightBytes, Width
from bitwright.values import Policy, Site, Sites

SCALE_BYTES = 4
ZERO_POINT_BYTES = 1


def packed_bytes(site: Site, bits: int) -> float:
    """Exactly the bits of the policy, 4 bytes for each scale, and 1 for each zero point where it is not 0."""
    parameters = SCALE_BYTES + (0 if site.scheme.symmetric else ZERO_POINT_BYTES)
    return site.numel * bits / 8 + site.scales * parameters


@dataclass(frozen=True)
class Size:
    """Bytes of all parameters: quantized weights as ``stored`` says, everything else 4 bytes an element.

    What describes the graph in a file, and the grids of activations, are not counted.

    Attributes:
        stored: (weight site, bits) -> bytes.
    """

    stored: WeightBytes = packed_bytes
    name: str = "size"
    unit: str = "bytes"

    def of_site(self, site: Site, bits: Width) -> float:
        """Bytes of one weight site."""
        return site.numel * FLOAT_BITS / 8 if bits is None else self.stored(site, bits)

    def of(self, policy: Policy, sites: Sites) -> float:
        """Bytes of all parameters under a policy; float weights count 32 bits."""
        weights = sum(self.of_site(site, policy[site.name]) for site in sites.weights)
        return weights + sites.other_parameters * FLOAT_BITS / 8

    def terms(self, sites: Sites, bits: Sequence[Width]) -> CostTerms:
        """The decomposition: one term for each weight site."""
        linear = {site.name: {b: self.of_site(site, b) for b in bits} for site in sites.weights}
        return CostTerms(sites.other_parameters * FLOAT_BITS / 8, linear)


COSTS.register(
    Cost(
        name="size",
        order=10,
        does="Bytes of all parameters as the runtime stores them.",
        called="Size",
        unit="bytes",
        headline=("smaller", "larger"),
        stored=True,
        examples=("15%", "250KB", "W4A8"),
        function=lambda weight_bytes: Size(weight_bytes or packed_bytes),
    )
)
COSTS.register(
    Cost(
        name="packed",
        order=30,
        does="Bytes of all parameters for hardware that packs every width.",
        called="Packed size",
        unit="bytes",
        function=lambda weight_bytes: Size(name="packed"),
    )
)
