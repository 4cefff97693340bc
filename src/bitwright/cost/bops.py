"""Bit operations of one sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bitwright.cost.model import COSTS, FLOAT_BITS, Cost, CostTerms, PairTerm, Width
from bitwright.values import Policy, Sites


def _counted(bits: Width) -> int:
    return FLOAT_BITS if bits is None else bits


@dataclass(frozen=True)
class Bops:
    """Bit operations: the sum over operations of MACs x bits of one operand x bits of the other.

    As in van Baalen et al., Bayesian Bits (NeurIPS 2020). Operands in float, and operands without a
    site, count as 32 bits. Products of two activations, as inside attention, count like any others.
    """

    name: str = "bops"
    unit: str = "bit operations"

    def of(self, policy: Policy, sites: Sites) -> float:
        """Bit operations for one sample under a policy."""
        return float(
            sum(
                op.macs
                * _counted(policy[op.left] if op.left is not None else None)
                * _counted(policy[op.right] if op.right is not None else None)
                for op in sites.operations
            )
        )

    def terms(self, sites: Sites, bits: Sequence[Width]) -> CostTerms:
        """The decomposition: a pair term for each operation with two sites, a linear term for one site."""
        constant = 0.0
        linear: dict[str, dict[Width, float]] = {}
        pairs = []
        for op in sites.operations:
            if op.left is None and op.right is None:
                constant += float(op.macs * FLOAT_BITS**2)
            elif op.left is None or op.right is None or op.left == op.right:
                site = op.left if op.left is not None else op.right
                assert site is not None
                row = linear.setdefault(site, dict.fromkeys(bits, 0.0))
                for b in bits:
                    other = _counted(b) if op.left == op.right else FLOAT_BITS
                    row[b] += float(op.macs * _counted(b) * other)
            else:
                values = {(a, b): float(op.macs * _counted(a) * _counted(b)) for a in bits for b in bits}
                pairs.append(PairTerm(op.left, op.right, values))
        return CostTerms(constant, linear, tuple(pairs))


COSTS.register(
    Cost(
        name="bops",
        order=20,
        does="Bit operations of one sample.",
        called="BOPs per input",
        unit="bit operations",
        symbol="BOPs",
        headline=("fewer bit operations", "more bit operations"),
        examples=("W4A4", "1.2G", "30%"),
        function=lambda weight_bytes: Bops(),
    )
)
