"""How a quantized network behaves on inputs that nobody tuned it on (Hu et al. 2022)."""

from bitwright.behavior.guarded import Guarded, add_guard
from bitwright.behavior.indicators import INDICATORS, Indicator
from bitwright.behavior.retraining import retrain
from bitwright.behavior.shift import SHIFTS, Shift
from bitwright.behavior.side_by_side import behaviors
from bitwright.behavior.study import Subject, behavior
from bitwright.behavior.typos import typos

__all__ = [
    "INDICATORS",
    "SHIFTS",
    "Guarded",
    "Indicator",
    "Shift",
    "Subject",
    "add_guard",
    "behavior",
    "behaviors",
    "retrain",
    "typos",
]
