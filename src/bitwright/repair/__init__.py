"""Repairs: mending a network before or after its bits are chosen, each a function on the graph."""

from bitwright.repair.adaround import adaround
from bitwright.repair.bias import bias_correction
from bitwright.repair.equalization import equalize
from bitwright.repair.outliers import clip, smooth
from bitwright.repair.ranges import set_granularity, set_ranges
from bitwright.repair.repair import REPAIRS, repair
from bitwright.repair.report import Change, RepairReport

__all__ = [
    "REPAIRS",
    "Change",
    "RepairReport",
    "adaround",
    "bias_correction",
    "clip",
    "equalize",
    "repair",
    "set_granularity",
    "set_ranges",
    "smooth",
]
