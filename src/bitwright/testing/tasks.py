"""Tests that any task can be run against, and verdicts made by hand for tests of what shows them."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from bitwright.tasks.base import Answer, Evidence, Task
from bitwright.tasks.columns import Columns, FloatSide, joined
from bitwright.tasks.intervals import Draws
from bitwright.tasks.metrics import metered
from bitwright.values import Verdict


def verdict_of(task: Task, outputs: list[Any], floats: list[Any], targets: list[Any]) -> Verdict:
    """What a task says of outputs against those of the float model, given batch by batch."""
    ours, pair, exact = Columns(), Columns(), FloatSide(task)
    for one, other, wanted in zip(outputs, floats, targets, strict=True):
        count = len(tree_leaves(one)[0])
        answer, expected = Answer(task, one, wanted, count), Answer(task, other, wanted, count)
        ours.add({**answer.own, **task.details(answer)}, count)
        exact.add(expected, details=True)
        pair.add(task.against(answer, expected), count)
    metrics = {}
    if task.metrics:
        mine, theirs, wanted = joined(outputs), joined(floats), joined(targets)
        found, beside = (metered(task.metrics, values, wanted) for values in (mine, theirs))
        metrics = {name: (found[name], beside[name]) for name in found}
    evidence = Evidence(ours.all(), exact.columns.all(), pair.all(), exact.spread, metrics)
    return task.verdict(evidence, Draws(resamples=200))


class TaskContract(ABC):
    """What every task must do; derive from it and write :meth:`make` and :meth:`answers`."""

    @abstractmethod
    def make(self) -> Task:
        """The task."""

    @abstractmethod
    def answers(self) -> tuple[list[Any], list[Any], list[Any]]:
        """Outputs of a float model, other outputs of the same shapes, and targets (None: without), batch by batch.

        At least two batches, with the same number of samples in each.
        """

    def test_equal_outputs_are_at_no_distance_and_lose_nothing(self) -> None:
        """The distance is 0, the primary figure unchanged, and nothing may be lost."""
        floats, _, targets = self.answers()
        same = verdict_of(self.make(), floats, floats, targets)
        assert same.distance.value == 0, f"the distance of equal outputs must be 0, got {same.distance.value}"
        assert same.lost.value == 0, f"equal outputs lose nothing, got {same.lost.value} of {same.primary_name}"
        assert same.may_lose == 0, f"equal outputs may lose nothing, got {same.may_lose}"

    def test_figures_hold_their_values(self) -> None:
        """Other outputs are at a distance; every interval holds its value; the primary figure has a change."""
        floats, outputs, targets = self.answers()
        found = verdict_of(self.make(), outputs, floats, targets)
        assert found.distance.value > 0, "the distance of other outputs must be above 0"
        assert not found.figures[found.distance_name].measure.larger, "a larger distance must be worse"
        assert found.primary_name in found.figures, f"the primary figure '{found.primary_name}' is missing"
        assert found.primary.change is not None, f"the primary figure '{found.primary_name}' needs a change"
        for name, figure in found.figures.items():
            assert figure.measure.name == name, f"the figure '{name}' calls itself '{figure.measure.name}'"
            for interval in (figure.value, figure.reference, figure.change):
                inside = interval is None or interval.low <= interval.value <= interval.high
                assert inside, f"{name}: the interval {interval} leaves its value out"

    def test_batches_do_not_matter(self) -> None:
        """One large batch gives the figures of several small ones."""
        floats, outputs, targets = self.answers()
        parts = verdict_of(self.make(), outputs, floats, targets)
        together = None if targets[0] is None else joined(targets)
        whole = verdict_of(self.make(), [joined(outputs)], [joined(floats)], [together])
        for name, figure in whole.figures.items():
            one, other = figure.value.value, parts.figures[name].value.value
            assert np.isclose(one, other, rtol=1e-6, atol=1e-9), f"{name} depends on the batches: {one} or {other}"

    def test_it_survives_json(self) -> None:
        """The verdict is the same after it was written and read."""
        floats, outputs, targets = self.answers()
        found = verdict_of(self.make(), outputs, floats, targets)
        again = Verdict.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
        assert again == found, "the verdict must not change in JSON"

    def test_scores_have_gradients(self) -> None:
        """FIT takes gradients of one number for each sample."""
        task, (floats, _, targets) = self.make(), self.answers()
        leaves, spec = tree_flatten(floats[0])
        tensors = [leaf.detach().requires_grad_() for leaf in leaves]
        count = len(tensors[0])
        scores = task.scores(tree_unflatten(tensors, spec), targets[0], count)
        assert scores.shape == (count,), f"scores must be one number for each sample, got {tuple(scores.shape)}"
        found = torch.autograd.grad(scores.sum(), tensors, allow_unused=True)
        assert any(grad is not None and bool(grad.any()) for grad in found), "scores must depend on the outputs"
