"""What networks are for: one file a task, the only places that know what outputs mean; and measuring by it."""

from bitwright.tasks.base import TASKS, Answer, Evidence, Task, Vectors
from bitwright.tasks.classification import Classification
from bitwright.tasks.dense import Dense
from bitwright.tasks.detection import Detection
from bitwright.tasks.embedding import Embedding
from bitwright.tasks.evaluate import Reference, evaluate, reference
from bitwright.tasks.infer import infer, named_task, task_for
from bitwright.tasks.intervals import Draws, bootstrap_mean, paired_bootstrap, wilson
from bitwright.tasks.language import Language
from bitwright.tasks.regression import Regression

__all__ = [
    "TASKS",
    "Answer",
    "Classification",
    "Dense",
    "Detection",
    "Draws",
    "Embedding",
    "Evidence",
    "Language",
    "Reference",
    "Regression",
    "Task",
    "Vectors",
    "bootstrap_mean",
    "evaluate",
    "infer",
    "named_task",
    "paired_bootstrap",
    "reference",
    "task_for",
    "wilson",
]
