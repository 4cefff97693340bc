"""What a policy costs: bytes, bit operations, seconds; and budgets in plain words."""

from bitwright.cost.bops import Bops
from bitwright.cost.budget import human, keeps, parse_budget, parse_budgets, scale, uniform_policy
from bitwright.cost.latency import Latency
from bitwright.cost.model import (
    COSTS,
    FLOAT_BITS,
    Cost,
    CostModel,
    CostTerms,
    PairTerm,
    costs_for,
    costs_of,
    headline_costs,
    stored_cost,
)
from bitwright.cost.size import Size

__all__ = [
    "COSTS",
    "FLOAT_BITS",
    "Bops",
    "Cost",
    "CostModel",
    "CostTerms",
    "Latency",
    "PairTerm",
    "Size",
    "costs_for",
    "costs_of",
    "headline_costs",
    "human",
    "keeps",
    "parse_budget",
    "parse_budgets",
    "scale",
    "stored_cost",
    "uniform_policy",
]
