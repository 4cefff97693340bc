"""Search: exact policies under budgets, Pareto fronts, and measuring in the loop."""

from bitwright.search.calibrated import Calibrated, Prediction, calibrated, spread
from bitwright.search.constraints import Constraints
from bitwright.search.front import search
from bitwright.search.refine import Refinement, refine
from bitwright.search.uniform import uniform_within

__all__ = [
    "Calibrated",
    "Constraints",
    "Prediction",
    "Refinement",
    "calibrated",
    "refine",
    "search",
    "spread",
    "uniform_within",
]
