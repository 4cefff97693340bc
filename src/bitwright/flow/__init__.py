"""The main job. Read ``main_job.py`` first: the whole way from a model to an exported file on one page."""

from bitwright.flow.deliver import deliver
from bitwright.flow.main_job import Asked, constraints, run
from bitwright.flow.outputs import write_tables
from bitwright.flow.scores import gave_way, made_for, score

__all__ = [
    "Asked",
    "constraints",
    "deliver",
    "gave_way",
    "made_for",
    "run",
    "score",
    "write_tables",
]
