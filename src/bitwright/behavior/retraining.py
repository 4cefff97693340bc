"""Retraining: disagreements of one half of the inputs become training data; which old ones go, and which come?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from bitwright.arguments import checked
from bitwright.behavior.inputs import Array, Inputs, Mask, half, origins
from bitwright.behavior.side_by_side import joined
from bitwright.behavior.study import Progress, Remember, Study, Subject
from bitwright.errors import InvalidInput
from bitwright.graph.batches import Batch, as_batches, iterate
from bitwright.graph.graph import Graph
from bitwright.settings import DEFAULTS
from bitwright.tasks.base import Task
from bitwright.train.feed import picked
from bitwright.train.qat import qat
from bitwright.values import Policy
from bitwright.values.behavior import SEVERITIES, Retraining, Seen, Turned

EPOCHS = 3
"""Passes over the training data with the disagreements, unless another number is asked for."""

Learn = Callable[["Mixed"], Subject]
"""The training data with the disagreements -> the network that was trained on them."""


class Mixed:
    """Training data with disagreements behind them, which have targets where the training data have.

    Attributes:
        added: the disagreements, (inputs, targets).
    """

    def __init__(self, training: Any, added: Sequence[Batch]) -> None:
        self._training, self.added = as_batches(training), tuple(added)

    def __iter__(self) -> Iterator[Any]:
        labelled = True
        for inputs, targets in iterate(self._training, purpose="training"):
            labelled = targets is not None
            yield inputs, targets
        yield from ((inputs, targets if labelled else None) for inputs, targets in self.added)


@checked
def retrain(
    graph: Graph,
    policy: Policy,
    batches: Any,
    training: Any,
    shifts: Iterable[str] | None = None,
    *,
    severities: Sequence[int] = SEVERITIES,
    others: Mapping[str, Any] | None = None,
    task: Task | str | None = None,
    tolerance: float | None = None,
    epochs: int = EPOCHS,
    learning_rate: float = 0.005,
    learn: Learn | None = None,
    seed: int = 0,
    remember: Remember | None = None,
    progress: Progress | None = None,
) -> Retraining:
    """Train a quantized network with its disagreements under shifts added, and see which go and which come.

    The disagreements of one half of the inputs are added to the training data. What became of them is one answer; that
    of the other half of the inputs, under the same shifts, is the one that counts.

    Args:
        graph: calibrated, best repaired; it is trained with :func:`bitwright.train.qat` unless ``learn`` is given.
        policy: the widths.
        batches: the inputs that are shifted, as in :func:`~bitwright.behavior.behavior`, like all that follows.
        training: training data, (inputs, targets), none of them among ``batches``.
        shifts: likewise.
        severities: likewise.
        others: likewise.
        task: likewise.
        tolerance: likewise.
        epochs: passes over the training data with the disagreements.
        learning_rate: the largest one, in grid steps for each step of the optimizer.
        learn: another way to train: a function of the training data with the disagreements, of which it makes batches
            (inputs, targets), that gives the trained network, such as a float network trained further and quantized.
        seed: likewise.
        remember: keeps the records of the network before the training.
        progress: called with (passes done, passes in all) before the training, and again after it.

    Raises:
        InvalidInput: settings that cannot be used, a task that decides nothing without a tolerance, or no
            disagreement.
        InvalidData: no data.
    """
    study = Study(graph, batches, shifts, severities, others, task, 0.95, tolerance, DEFAULTS.runtime, seed)
    (before,) = study.watch([Subject(graph, policy, remember=remember)], progress)
    mixed = Mixed(training, disagreed(study, before))

    def trained(mixed: Mixed) -> Subject:
        qat(graph, mixed, policy, task=study.task, epochs=epochs, learning_rate=learning_rate, shuffle=True, seed=seed)
        return Subject(graph, policy)

    (after,) = study.watch([(learn or trained)(mixed)], progress)
    return retraining(study, before, after, mixed, epochs)


def disagreed(study: Study, seen: Sequence[Seen]) -> list[Batch]:
    """The inputs of one half, in all cases, on which a network disagrees with float, with their targets.

    Raises:
        InvalidInput: a task that decides nothing, without a tolerance, or no disagreement.
    """
    chosen, _ = _sides(study, seen)
    found: list[Batch] = []
    place = 0
    for case in study.cases:
        for inputs, targets in iterate(case.batches, purpose="behavior"):
            mine = torch.from_numpy(np.flatnonzero(chosen[place : place + len(inputs[0])]))
            place += len(inputs[0])
            if len(mine):
                found.append((tuple(value[mine] for value in inputs), picked(targets, mine)))
    if not found:
        raise InvalidInput("there is no disagreement to train with; take more shifts, or fewer bits")
    return found


def _sides(study: Study, seen: Sequence[Seen]) -> tuple[Mask, Mask]:
    """Of all samples of all cases: whether it is a disagreement to be added, and whether its input is of that half."""
    differs = joined(seen, "differs")
    if differs is None:
        raise InvalidInput(
            f"retraining needs disagreements, and the task '{study.task.name}' decides nothing; give a tolerance, the "
            "distance from which on outputs disagree"
        )
    side = half(_numbers(study, seen), study.seed)
    return side & (differs > 0), side


def _numbers(study: Study, seen: Sequence[Seen]) -> Any:
    return origins((case.origin, one.samples) for case, one in zip(study.cases, seen, strict=True))


def retraining(study: Study, before: Sequence[Seen], after: Sequence[Seen], mixed: Mixed, epochs: int) -> Retraining:
    """What became of the disagreements.

    Args:
        study: of both networks.
        before: what was seen of the network before it was trained.
        after: likewise after.
        mixed: what it was trained on.
        epochs: passes over that.
    """
    _, side = _sides(study, before)
    numbers = _numbers(study, before)
    names = np.concatenate([[case.name] * one.samples for case, one in zip(study.cases, before, strict=True)])

    def turned(name: str, chosen: Mask) -> Turned:
        return _turned(name, chosen, Inputs(numbers[chosen], study.seed), before, after)

    added = sum(len(inputs[0]) for inputs, _ in mixed.added)
    samples = sum(len(inputs[0]) for inputs, _ in iterate(mixed, purpose="training"))
    return Retraining(
        added,
        samples - added,
        epochs,
        turned("the half added", side),
        turned("the other half", ~side),
        tuple(turned(name, ~side & (names == name)) for name in dict.fromkeys(names.tolist())),
    )


def _turned(name: str, chosen: Mask, inputs: Inputs, before: Sequence[Seen], after: Sequence[Seen]) -> Turned:
    def both(field: str) -> list[Array]:
        found = [joined(seen, field) for seen in (before, after)]
        return [each[chosen] for each in found if each is not None]

    was, now = (each > 0 for each in both("differs"))
    figures = both("ours")
    more: dict[str, Any] = {}
    if len(figures) == 2:
        first, second = figures
        more = {
            "figure_before": float(first.mean()),
            "figure_after": float(second.mean()),
            "figure_change": inputs.change(second, first),
        }
    removed, new = was & ~now, now & ~was
    return Turned(
        name,
        len(was),
        int(was.sum()),
        int(now.sum()),
        int(removed.sum()),
        int(new.sum()),
        inputs.share(was),
        inputs.share(now),
        inputs.change(now, was),
        inputs.share(removed, of=was) if was.any() else None,
        inputs.share(new, of=now) if now.any() else None,
        **more,
    )
