"""What a policy costs: bytes, bit operations, seconds; and budgets in plain words."""

from bitwright.cost.bops import Bops
from bitwright.cost.budget import BUDGET_EXAMPLES, default_costs, human, parse_budget, parse_budgets, uniform_policy
from bitwright.cost.latency import Latency
from bitwright.cost.model import FLOAT_BITS, CostModel, CostTerms, PairTerm
from bitwright.cost.size import Size

__all__ = [
    "BUDGET_EXAMPLES",
    "FLOAT_BITS",
    "Bops",
    "CostModel",
    "CostTerms",
    "Latency",
    "PairTerm",
    "Size",
    "default_costs",
    "human",
    "parse_budget",
    "parse_budgets",
    "uniform_policy",
]
