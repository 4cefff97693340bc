"""The main job. Read ``main_job.py`` first: the whole way from a model to an exported file on one page."""

from bitwright.flow.bench import Bench, gave_way, prepare, score
from bitwright.flow.deliver import deliver
from bitwright.flow.main_job import SCORES, Asked, constraints, run
from bitwright.flow.outputs import write_front, write_policy, write_tables
from bitwright.flow.steps import Progress, Steps

__all__ = [
    "SCORES",
    "Asked",
    "Bench",
    "Progress",
    "Steps",
    "constraints",
    "deliver",
    "gave_way",
    "prepare",
    "run",
    "score",
    "write_front",
    "write_policy",
    "write_tables",
]
