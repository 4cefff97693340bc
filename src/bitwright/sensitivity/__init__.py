"""Scores of sites: one file a method, all of them make a :class:`~bitwright.values.SensitivityTable`."""

from bitwright.sensitivity.methods import METHODS, sensitivities, sensitivity
from bitwright.sensitivity.sweep import blocks, sweep

__all__ = ["METHODS", "blocks", "sensitivities", "sensitivity", "sweep"]
