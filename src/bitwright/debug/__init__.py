"""Why accuracy was lost, step by step, and what mends it."""

from bitwright.debug.apply import Told, apply_recipe
from bitwright.debug.auto import Auto, cheapest_recipe, ladder_of
from bitwright.debug.flow import REPAIRS, STEPS, debug
from bitwright.debug.tensors import tensor_view

__all__ = ["REPAIRS", "STEPS", "Auto", "Told", "apply_recipe", "cheapest_recipe", "debug", "ladder_of", "tensor_view"]
