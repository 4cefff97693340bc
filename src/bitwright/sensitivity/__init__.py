"""Scores of sites: one file a method, all of them make a :class:`~bitwright.values.SensitivityTable`."""

from bitwright.sensitivity.methods import METHODS, sensitivities, sensitivity

__all__ = ["METHODS", "sensitivities", "sensitivity"]
