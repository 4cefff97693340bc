"""Values that flow through Bitwright: frozen, without model objects, to and from JSON."""

from bitwright.values.coverage import Coverage, LeftOut
from bitwright.values.front import Budget, Candidate, Front, Move
from bitwright.values.policy import FLOAT, MAX_BITS, MIN_BITS, Policy, check_bits
from bitwright.values.site import Operation, Scheme, Site, Sites
from bitwright.values.table import MarginModel, SensitivityTable
from bitwright.values.verdict import Closeness, Drift, Figure, Interval, Latency, Measure, Parity, Verdict

__all__ = [
    "FLOAT",
    "MAX_BITS",
    "MIN_BITS",
    "Budget",
    "Candidate",
    "Closeness",
    "Coverage",
    "Drift",
    "Figure",
    "Front",
    "Interval",
    "Latency",
    "LeftOut",
    "MarginModel",
    "Measure",
    "Move",
    "Move",
    "Operation",
    "Parity",
    "Policy",
    "Scheme",
    "SensitivityTable",
    "Site",
    "Sites",
    "Verdict",
    "check_bits",
]
