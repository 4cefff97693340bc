"""Which task it is: given by the user, or inferred from outputs and targets, here and nowhere else."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from bitwright.errors import InvalidInput
from bitwright.graph.batches import iterate
from bitwright.graph.graph import Graph
from bitwright.graph.outputs import flatten
from bitwright.registry import check_options, parsed
from bitwright.tasks.base import TASKS, Loss, Metric, Task
from bitwright.tasks.classification import Classification, check_classes
from bitwright.tasks.dense import Dense
from bitwright.tasks.embedding import Embedding
from bitwright.tasks.regression import Regression
from bitwright.values import FLOAT


def infer(outputs: Any, targets: Any, loss: Loss | None = None) -> Task:
    """The task that outputs and targets look like.

    Float targets: regression. Class numbers: classification for logits (N, K), dense prediction for (N, K, ...).
    Without targets, vectors (N, D): embedding. Outputs without classes and a loss of the user's: regression.
    """
    named = flatten(outputs)
    first = targets[next(iter(targets))] if isinstance(targets, Mapping) and targets else targets
    logits = next(iter(named.values()), None)
    if logits is None:
        raise InvalidInput("the network returns no tensor, so there is nothing to compare; wrap the model")
    if isinstance(first, Tensor) and _one_hot(first, logits):
        raise InvalidInput(
            f"the targets look like one-hot classes, {_told(first)}; give class numbers instead, targets.argmax(1), or "
            "name the task with --task regression (task= in Python)"
        )
    if isinstance(first, Tensor) and (first.is_floating_point() or (loss is not None and not _classes(logits))):
        return Regression()
    if isinstance(first, Tensor) and _classes(logits):
        if first.shape == logits.shape[:-1] and first.shape != (logits.shape[0], *logits.shape[2:]):
            check_classes(logits, first)  # says what to do about classes on the last axis
        return Classification() if logits.dim() == 2 else Dense()
    if first is None and logits.dim() == 2 and logits.is_floating_point():
        return Embedding()
    what = "no targets" if targets is None else f"targets {_told(first)}"
    raise InvalidInput(
        f"it is not clear what outputs {_told(logits)} with {what} mean; name the task with --task (task= in Python): "
        f"{', '.join(TASKS)}, or module:Class of your own"
    )


def _classes(logits: Tensor) -> bool:
    return logits.dim() > 1 and logits.shape[1] > 1


def _one_hot(targets: Tensor, logits: Tensor) -> bool:
    """Whether there is a 1 for each sample in a float target, and zeros elsewhere."""
    if not targets.is_floating_point() or targets.shape != logits.shape or not _classes(logits):
        return False
    return bool(((targets == 0) | (targets == 1)).all()) and bool((targets.sum(1) == 1).all())


def _told(value: Any) -> str:
    return f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"of type {type(value).__name__}"


def named_task(text: str, load: Callable[[str, str], Any] | None = None) -> Task:
    """The task that a text names: ``"dense"``, with options ``"dense?ignore=255"``.

    Args:
        text: of the user.
        load: (``"module:function"``, name of the option) -> what it names.
    """
    name, options = parsed(text, load)
    kind = TASKS[name]
    check_options(f"task '{name}'", dict.fromkeys(_options(kind)), options)
    return kind(**options)


def _options(kind: type[Task]) -> list[str]:
    """The keyword parameters that a task has beside those of all tasks."""
    found: list[str] = []
    for base in kind.__mro__:
        if base is not Task and issubclass(base, Task) and "__init__" in vars(base):
            parameters = inspect.signature(base.__init__).parameters.values()
            found += [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    return found


def task_for(
    graph: Graph,
    batches: Any,
    task: Task | type[Task] | str | None = None,
    loss: Loss | None = None,
    metric: Metric | Mapping[str, Metric] | None = None,
    purpose: str = "evaluation",
) -> Task:
    """The task that was given, by name or as it is, or the one that the first samples look like."""
    if isinstance(task, str):
        task = named_task(task)
    elif isinstance(task, type):
        task = task()
    if task is None:
        inputs, targets = next(iterate(batches, graph, purpose))
        with graph.applied(FLOAT), torch.no_grad():
            outputs = graph(*(value[:2] for value in inputs))
        task = infer(outputs, _first(targets), loss)
    if not isinstance(task, Task):
        raise InvalidInput(f"task must be a task or the name of one ({', '.join(TASKS)}), got {type(task).__name__}")
    return task.judged_by(loss, metric)


def _first(targets: Any) -> Any:
    if isinstance(targets, Mapping):
        return {key: _first(value) for key, value in targets.items()}
    return targets[:2] if isinstance(targets, (Tensor, list)) else targets
