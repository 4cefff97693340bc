"""Why accuracy was lost, step by step, and what mends it."""

from bitwright.debug.auto import Auto, cheapest_recipe, ladder_of
from bitwright.debug.flow import STEPS, debug
from bitwright.debug.tensors import tensor_view

__all__ = ["STEPS", "Auto", "cheapest_recipe", "debug", "ladder_of", "tensor_view"]
