"""A cost: bytes that one input moves to and from memory where nothing stays in a cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bitwright.cost import FLOAT_BITS, Cost, CostTerms
from bitwright.values import Policy, Sites

Width = int | None


@dataclass(frozen=True)
class Traffic:
    """Every weight is read once, every activation is written once and read once, each at its width."""

    name: str = "traffic"
    unit: str = "bytes"

    def of(self, policy: Policy, sites: Sites) -> float:
        """Bytes under a policy."""
        return self.terms(sites, (*{policy[name] for name in sites.names},)).total(policy)

    def terms(self, sites: Sites, bits: Sequence[Width]) -> CostTerms:
        """One term for each site."""
        passes = {"weight": 1, "activation": 2}
        linear = {
            site.name: {b: passes[site.kind] * site.numel * (FLOAT_BITS if b is None else b) / 8 for b in bits}
            for site in sites
        }
        return CostTerms(sites.other_parameters * FLOAT_BITS / 8, linear)


TRAFFIC = Cost(
    name="traffic",
    does="Bytes that one input moves to and from memory.",
    called="Memory traffic",
    unit="bytes",
    function=lambda weight_bytes: Traffic(),
)
