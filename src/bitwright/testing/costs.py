"""The contract of a cost."""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod

import numpy as np

from bitwright.cost import CostModel, human, parse_budget
from bitwright.cost.model import Width
from bitwright.search import search
from bitwright.testing.samples import captured
from bitwright.values import FLOAT, Policy, SensitivityTable, Sites


class CostContract(ABC):
    """What every cost must do; derive from it and write :meth:`make`.

    Attributes:
        widths: that it can count; None is float.
    """

    widths: tuple[Width, ...] = (2, 3, 4, 8, 16, None)

    @abstractmethod
    def make(self) -> CostModel:
        """The cost."""

    def _sites(self) -> Sites:
        return captured().sites

    def _policies(self, count: int) -> list[Policy]:
        draw, names = random.Random(0), self._sites().names
        return [FLOAT.replaced({name: draw.choice(self.widths) for name in names}) for _ in range(count)]

    def test_it_says_what_it_counts(self) -> None:
        """Name and unit."""
        assert isinstance(self.make(), CostModel), "a cost has name, unit, of(policy, sites) and terms(sites, bits)"
        assert self.make().name
        assert self.make().unit

    def test_terms_add_up(self) -> None:
        """The decomposition that the search works on gives what the whole cost gives."""
        cost, sites = self.make(), self._sites()
        terms = cost.terms(sites, self.widths)
        for policy in self._policies(30):
            parts, whole = terms.total(policy), cost.of(policy, sites)
            assert math.isclose(parts, whole, rel_tol=1e-9), f"the terms give {parts:.6g}, the whole {whole:.6g}"

    def test_fewer_bits_never_cost_more(self) -> None:
        """At each site, whatever the others have."""
        cost, sites = self.make(), self._sites()
        for policy in self._policies(10):
            for name in sites.names:
                values = [cost.of(policy.replaced({name: width}), sites) for width in self.widths]
                assert values == sorted(values), f"{name} costs {values} at {self.widths} bits"
                assert values[0] >= 0, f"a cost must not be negative, got {values[0]}"

    def test_budgets_can_be_written(self) -> None:
        """A share of float, a uniform policy, and the text that reports write."""
        cost, sites = self.make(), self._sites()
        models, whole = {cost.name: cost}, cost.of(FLOAT, sites)
        assert math.isclose(parse_budget(f"{cost.name}=50%", sites, models).limit, whole / 2)
        four = cost.of(Policy.uniform(sites, 4, 4), sites)
        assert parse_budget(f"{cost.name}=W4A4", sites, models).limit == four
        read = parse_budget(f"{cost.name}={human(whole, cost.unit)}", sites, models).limit
        assert math.isclose(read, whole, rel_tol=1e-3), f"{human(whole, cost.unit)} is read as {read}"

    def test_the_search_keeps_its_budgets(self) -> None:
        """And proves that nothing better fits."""
        cost, sites = self.make(), self._sites()
        bits = tuple(width for width in self.widths if width is not None)[:4]
        harm = [[(1 + place) * 4.0**-b for b in bits] for place in range(len(sites))]
        table = SensitivityTable("contract", "harm", sites.names, bits, np.array(harm), graph_hash=sites.graph_hash)
        limit = cost.of(Policy.uniform(sites, bits[1], bits[1]), sites)
        (found,) = search(sites, table, cost=cost, budgets=[f"{cost.name}=W{bits[1]}A{bits[1]}"])
        assert cost.of(found.policy, sites) <= limit * (1 + 1e-9), "the budget must hold"
        assert found.optimal, "the best policy must be proven"
