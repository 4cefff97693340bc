"""Search: exact policies under budgets, Pareto fronts, and measuring in the loop."""

from bitwright.search.constraints import Constraints
from bitwright.search.front import search
from bitwright.search.refine import Calibration, Refinement, fit_calibration, refine

__all__ = [
    "Calibration",
    "Constraints",
    "Refinement",
    "fit_calibration",
    "refine",
    "search",
]
