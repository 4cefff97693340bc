"""Contracts of what can be plugged in: base classes for the tests of one's own plug-ins; Bitwright itself uses none."""

from bitwright.testing.quantizers import QuantizerContract

__all__ = ["QuantizerContract"]
