"""Contracts of what can be plugged in: base classes for the tests of one's own plug-ins; Bitwright itself uses none."""

from bitwright.testing.costs import CostContract
from bitwright.testing.datasets import DataContract
from bitwright.testing.indicators import IndicatorContract
from bitwright.testing.methods import MethodContract
from bitwright.testing.placements import PlacementContract
from bitwright.testing.quantizers import QuantizerContract
from bitwright.testing.repairs import RepairContract
from bitwright.testing.runtimes import RuntimeContract
from bitwright.testing.shifts import ShiftContract
from bitwright.testing.strategies import StrategyContract
from bitwright.testing.tasks import TaskContract

__all__ = [
    "CostContract",
    "DataContract",
    "IndicatorContract",
    "MethodContract",
    "PlacementContract",
    "QuantizerContract",
    "RepairContract",
    "RuntimeContract",
    "ShiftContract",
    "StrategyContract",
    "TaskContract",
]
