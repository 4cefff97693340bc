"""The main job. Read ``main_job.py`` first: the whole way from a model to an exported file on one page."""

from bitwright.flow.bench import Bench, prepare, score
from bitwright.flow.main_job import Asked, run
from bitwright.flow.steps import Progress, Steps

__all__ = ["Asked", "Bench", "Progress", "Steps", "prepare", "run", "score"]
