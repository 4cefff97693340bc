"""How a quantized network behaves on inputs that nobody tuned it on (Hu et al. 2022)."""

from bitwright.behavior.shift import SHIFTS, Shift
from bitwright.behavior.study import behavior

__all__ = ["SHIFTS", "Shift", "behavior"]
