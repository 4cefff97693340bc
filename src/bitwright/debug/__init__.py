"""Why accuracy was lost, step by step, and what mends it."""

from bitwright.debug.apply import apply_recipe
from bitwright.debug.flow import REPAIRS, STEPS, debug
from bitwright.debug.tensors import tensor_view

__all__ = ["REPAIRS", "STEPS", "apply_recipe", "debug", "tensor_view"]
