"""Policies searched by gradients, on one data set for use on others: GMPQ and R-GMPQ."""

from bitwright.gmpq.head import with_head
from bitwright.gmpq.imitation import METHODS, Imitation
from bitwright.gmpq.search import WIDTHS, gmpq

__all__ = ["METHODS", "WIDTHS", "Imitation", "gmpq", "with_head"]
