"""The protocol of cost models, and the decomposition of a cost that search works on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from bitwright.registry import Descriptor, Registry, registry_of
from bitwright.settings import DEFAULTS
from bitwright.values import Policy, Site, Sites

FLOAT_BITS = 32
"""What a site in float counts as, in every cost model: 32 bits."""

Width = int | None
"""Bits of a site; None is float."""


@dataclass(frozen=True)
class PairTerm:
    """A cost that depends on the widths of two sites.

    Attributes:
        left: name of the first site.
        right: name of the second site, another one.
        values: (left bits, right bits) -> cost; a pair that is missing cannot be chosen.
    """

    left: str
    right: str
    values: Mapping[tuple[Width, Width], float]


@dataclass(frozen=True)
class CostTerms:
    """A cost as a constant, plus a term for each site, plus terms for pairs of sites.

    Attributes:
        constant: cost that no policy changes.
        linear: site name -> bits -> cost; a width that is missing cannot be chosen.
        pairs: one entry for each operation with two different quantized operands.
    """

    constant: float = 0.0
    linear: Mapping[str, Mapping[Width, float]] = field(default_factory=dict)
    pairs: tuple[PairTerm, ...] = ()

    def total(self, policy: Policy) -> float:
        """The cost of a policy, from its terms; a ``KeyError`` where a width is missing."""
        linear = sum(values[policy[site]] for site, values in self.linear.items())
        pairs = sum(pair.values[policy[pair.left], policy[pair.right]] for pair in self.pairs)
        return self.constant + linear + pairs


WeightBytes = Callable[[Site, int], float]
"""(weight site, bits) -> bytes that a runtime stores for it: integers, scales and zero points."""


@runtime_checkable
class CostModel(Protocol):
    """What search needs to know about a cost.

    Attributes:
        name: the metric in budgets, e.g. ``"bops"``.
        unit: what the numbers count, e.g. ``"bytes"``.
    """

    @property
    def name(self) -> str:
        """The metric in budgets."""

    @property
    def unit(self) -> str:
        """What the numbers count."""

    def of(self, policy: Policy, sites: Sites) -> float:
        """The cost of a whole policy; sites that it does not name count as float, 32 bits."""

    def terms(self, sites: Sites, bits: Sequence[Width]) -> CostTerms:
        """The same cost, decomposed, for any choice among ``bits`` at every site."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Cost(Descriptor):
    """A function ``(weight_bytes, **options) -> CostModel`` of the same name and unit.

    ``weight_bytes`` is the chosen runtime's :data:`WeightBytes`, None where there is no runtime.

    Attributes:
        unit: what the numbers count; ``"bytes"``, ``"bit operations"`` and ``"seconds"`` have prefixes of their own in
            budgets, other units powers of ten.
        symbol: what stands behind a prefix where that says nothing alone, e.g. ``"BOPs"`` in ``"650 MBOPs"``.
        headline: what a policy is that costs less than float, and one that costs more, e.g. ``("smaller", "larger")``.
            A cost that has it stands in the headline of a report, and uniform policies are compared at the same cost.
        stored: it is what a file takes for the parameters, so that headlines say the file's bytes in its place.
        examples: of limits in budgets, e.g. ``("W4A4", "30%")``, for messages and for what to try next.
    """

    function: Callable[..., CostModel]
    given: tuple[str, ...] = ("weight_bytes",)
    unit: str
    symbol: str = ""
    headline: tuple[str, str] | None = None
    stored: bool = False
    examples: tuple[str, ...] = ()


COSTS: Registry[Cost] = Registry("cost", "bitwright.cost")
"""The costs that need nothing but the sites and the runtime."""


def headline_costs() -> list[Cost]:
    """The costs that reports state first, and at which policies are compared."""
    return [cost for cost in COSTS.values() if cost.headline]


def stored_cost() -> Cost:
    """The cost that is what a file takes for the parameters."""
    return next(cost for cost in COSTS.values() if cost.stored)


def costs_of(policy: Policy, sites: Sites, models: Mapping[str, CostModel]) -> dict[str, float]:
    """Every cost of a policy, by name."""
    return {name: model.of(policy, sites) for name, model in models.items()}


def costs_for(runtime: str = DEFAULTS.runtime) -> dict[str, CostModel]:
    """Every registered cost by name, for a runtime; ``"none"``: for one that stores exactly the bits of a policy.

    Raises:
        InvalidInput: an unknown runtime.
    """
    stored = None if runtime == "none" else registry_of("runtime")[runtime].weight_bytes
    return {name: cost.function(stored) for name, cost in COSTS.items()}
