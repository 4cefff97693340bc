"""Why accuracy was lost, step by step, and what mends it."""

from bitwright.debug.apply import Told, apply_action, apply_recipe, keep_fitted
from bitwright.debug.auto import Auto, cheapest_recipe, ladder_of
from bitwright.debug.flow import STEPS, debug
from bitwright.debug.tensors import tensor_view

__all__ = [
    "STEPS",
    "Auto",
    "Told",
    "apply_action",
    "apply_recipe",
    "cheapest_recipe",
    "debug",
    "keep_fitted",
    "ladder_of",
    "tensor_view",
]
