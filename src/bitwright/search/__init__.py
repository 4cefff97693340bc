"""Search: exact policies under budgets, Pareto fronts, and measuring in the loop."""

from bitwright.search.constraints import Constraints
from bitwright.search.front import search
from bitwright.search.pareto import hypervolume, nondominated

__all__ = ["Constraints", "hypervolume", "nondominated", "search"]
