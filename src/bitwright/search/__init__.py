"""Search: exact policies under budgets, Pareto fronts, and measuring in the loop."""

from bitwright.search.constraints import Constraints
from bitwright.search.front import search
from bitwright.search.refine import Calibration, Refinement, fit_calibration, refine
from bitwright.search.uniform import uniform_within

__all__ = [
    "Calibration",
    "Constraints",
    "Refinement",
    "fit_calibration",
    "refine",
    "search",
    "uniform_within",
]
