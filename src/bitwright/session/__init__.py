"""Measuring: a captured network under recipes, its task, the samples drawn, and the store."""

from bitwright.session.samples import Samples, draw
from bitwright.session.session import Session
from bitwright.session.steps import Progress, Steps, Tell

__all__ = ["Progress", "Samples", "Session", "Steps", "Tell", "draw"]
