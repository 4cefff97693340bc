"""Repairs: mending a network before or after its bits are chosen, each a function on the graph."""

from bitwright.repair.adaround import adaround
from bitwright.repair.apply import Told, apply_action, apply_recipe, keep_fitted
from bitwright.repair.bias import bias_correction
from bitwright.repair.descriptor import REPAIRS, Repair, check_sequence, flow_repairs, functions_of, repair
from bitwright.repair.equalization import equalize
from bitwright.repair.fitted import put_fitted, take_fitted
from bitwright.repair.folding import fold
from bitwright.repair.gptq import gptq
from bitwright.repair.outliers import clip
from bitwright.repair.ranges import set_granularity, set_ranges
from bitwright.repair.report import Change, RepairReport
from bitwright.repair.smoothing import smooth

__all__ = [
    "REPAIRS",
    "Change",
    "Repair",
    "RepairReport",
    "Told",
    "adaround",
    "apply_action",
    "apply_recipe",
    "bias_correction",
    "check_sequence",
    "clip",
    "equalize",
    "flow_repairs",
    "functions_of",
    "fold",
    "gptq",
    "keep_fitted",
    "put_fitted",
    "repair",
    "set_granularity",
    "set_ranges",
    "smooth",
    "take_fitted",
]
