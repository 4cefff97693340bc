"""Policies searched by gradients, on one data set for use on others: GMPQ and R-GMPQ."""

from bitwright.gmpq.result import METHODS, Imitation, Round, Searched
from bitwright.gmpq.search import WIDTHS, gmpq

__all__ = ["METHODS", "WIDTHS", "Imitation", "Round", "Searched", "gmpq"]
