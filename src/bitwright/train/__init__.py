"""Training: one loop, what it learns, and what it brings down."""

from bitwright.train.qat import Epoch, Trained, qat

__all__ = ["Epoch", "Trained", "qat"]
