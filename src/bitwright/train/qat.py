"""Quantization-aware training: weights, steps and biases learned under the rounding that they will run with."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bitwright.arguments import checked
from bitwright.errors import InvalidData, InvalidInput
from bitwright.graph.graph import Graph
from bitwright.graph.pt2e import BATCH_NORMS
from bitwright.store import content_key
from bitwright.tasks.base import Answer, Task
from bitwright.tasks.evaluate import evaluate, reference
from bitwright.tasks.infer import task_for
from bitwright.train.feed import Augment, Feed
from bitwright.train.learner import Learner, moved_share, returned_share
from bitwright.train.loop import Loop, Progress, Pupil, check_epochs
from bitwright.train.strategy import named_strategy
from bitwright.train.workers import Precision, Workers, workers
from bitwright.values import FLOAT, Policy
from bitwright.values.trained import Trained, TrainedSite

SETTLED_AFTER = 0.8
"""Share of the epochs in which steps and norms are learned; then they stay, and weights follow for the rest."""
STATISTICS = 1024
"""Samples that the statistics of live norms are taken from."""


@checked
def qat(
    graph: Graph,
    batches: Any,
    policy: Policy | None = None,
    *,
    task: Task | str | None = None,
    epochs: int = 10,
    strategy: str = "standard",
    learning_rate: float = 0.005,
    labels: float = 0.0,
    learn_steps: bool = True,
    augment: Augment | None = None,
    shuffle: bool | None = None,
    norms: bool | None = None,
    holdout: Any = None,
    patience: int | None = None,
    precision: Precision = "no",
    checkpoint: str | Path | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Trained:
    """Train a quantized network so that it does what the float network does.

    What is learned stands at the sites (steps, and how far each weight moves from its float value) and in corrections
    of biases; the float weights stay what they are, so that ``graph.apply(bw.FLOAT)`` still is the float network.
    Afterwards the graph is like one that was repaired: it can be evaluated, exported and kept in a recipe.

    The loss is the task's distance to the float network (distillation; Hinton et al., 2015), which needs no targets and
    tells a student more than a class number does: it keeps the decisions that are close, and so the agreement with
    float. ``labels`` adds the task's own loss. Parameters are learned by Adam in units of their grids (see
    :mod:`bitwright.quantizers.learned_step`), with a learning rate that falls to zero along a cosine. Where the network
    had batch norms, they act during the first part of the training (see :mod:`bitwright.train.norms`). After 80 % of
    the epochs norms are folded, the steps become those that runtimes compute with exactly, and weights and biases go on
    learning with them.

    Started by ``accelerate launch`` or ``torchrun``, the processes share each batch: the figures are those of one.

    Args:
        graph: calibrated; best after repairs such as ``"gptq"``, from whose integers training starts.
        batches: training data, (inputs, targets). A list is mixed anew in each epoch; a loader comes in its own order.
        policy: the widths; None for the current policy. It is the current one afterwards.
        task: what the outputs mean; None: inferred.
        epochs: passes over the data.
        strategy: what a step does with a batch, by name, e.g. ``"mixup?alpha=0.4"``.
        learning_rate: the largest one, in grid steps for each step of the optimizer.
        labels: weight of the task's own loss against the targets; 0: none.
        learn_steps: whether the steps of the grids are learned, too; otherwise ranges stay as they were calibrated.
        augment: changes the inputs of a batch at random, e.g. :func:`~bitwright.train.feed.mirrored_and_shifted`.
        shuffle: mix the samples; None: a list, yes, a loader, no.
        holdout: batches that are not trained on; the epoch with the least distance to float on them is taken, or the
            start, if none is nearer.
        norms: whether batch norms act during the first part of the training; None: where the network had some.
        patience: epochs without a nearer one, once the steps stay, after which training stops; None: never.
        precision: ``"bf16"`` computes in bfloat16 where that is safe (with Accelerate); what is held out, never.
        checkpoint: a file that keeps the state after each epoch; training that was interrupted goes on from there, to
            the same result. It is removed at the end.
        seed: of order, augmentation and whatever else is drawn at random.
        progress: called with (steps done, steps in all).

    Returns:
        The course of the training.

    Raises:
        InvalidInput: no policy, no ranges, settings that cannot be used, or a checkpoint of another training.
        InvalidData: no data, or a loss that is not finite.
        MissingExtra: Accelerate is needed, and not installed.
    """
    check_settings(epochs, learning_rate, labels, patience)
    start = time.perf_counter()
    chosen = graph.policy if policy is None else policy
    if not len(chosen):
        raise InvalidInput(
            "policy must say which widths are trained; pass policy=bw.Policy.uniform(graph.sites, 4, 4), "
            "or apply a policy to the graph first"
        )
    steps = named_strategy(strategy)
    helpers, device = workers(precision), graph.device
    graph.to(helpers.device or device).apply(chosen)
    feed = Feed(batches, graph, seed, shuffle, augment)
    if feed.samples < 2:
        raise InvalidData(f"training needs at least 2 samples, got {feed.samples}")
    meant = task_for(graph, batches, task)
    if labels and feed.unlabelled:
        raise InvalidInput(f"labels={labels:g} needs targets, and the batches have none; pass (inputs, targets)")
    if labels and not meant.has_loss:
        raise InvalidInput(
            f"labels={labels:g} needs a loss, and the task '{meant.name}' has none; pass a task with loss="
        )
    live = bool(graph.module.meta.get(BATCH_NORMS)) if norms is None else norms
    student = Student(graph, meant, epochs, learning_rate, labels, live, holdout, helpers, learn_steps)
    loop = Loop(student, feed, steps, epochs, helpers, patience)
    key = content_key(
        graph=graph.graph_hash,
        policy=graph.policy,
        repairs=graph.repairs,
        settings=[epochs, learning_rate, labels, learn_steps, seed, live, patience, precision, strategy],
        samples=[feed.samples, feed.batches],
        augment=augment,
        task=meant.name,
        scales={name: scale.detach().cpu().flatten().tolist() for name, scale in student.first.items()},
    )
    try:
        loop.run(key, None if checkpoint is None else Path(checkpoint), progress)
        found = student.finish(loop, feed.samples)
    except BaseException:
        student.learner.undo()
        raise
    finally:
        graph.to(device)
    return replace(found, seconds=time.perf_counter() - start)


def check_settings(epochs: int, learning_rate: float, labels: float, patience: int | None = None) -> None:
    """Raise :class:`InvalidInput` for settings of :func:`qat` that cannot be used."""
    check_epochs(epochs, patience)
    if not 0 < learning_rate <= 1:
        raise InvalidInput(f"learning_rate must be above 0 and at most 1 grid step, got {learning_rate!r}")
    if not 0 <= labels < math.inf:
        raise InvalidInput(f"labels must be 0 or more, got {labels!r}")


class Student(Pupil):
    """A quantized network that follows the float one."""

    def __init__(
        self,
        graph: Graph,
        task: Task,
        epochs: int,
        rate: float,
        labels: float,
        live: bool,
        holdout: Any,
        workers: Workers,
        learn_steps: bool = True,
    ) -> None:
        self.graph, self.task, self._labels, self._workers = graph, task, labels, workers
        self._settled_at = min(max(round(epochs * SETTLED_AFTER), 1), epochs - 1)
        self._holdout, self._floats = holdout, None if holdout is None else reference(graph, holdout, task)
        self.first = {name: graph.quantizers[name].own_grid(bits).scale for name, bits in graph.policy.bits.items()}
        self._start = None if holdout is None else self._held()[0]
        self.learner = Learner(graph, live, workers)
        self.optimizer = torch.optim.Adam(self.learner.groups(rate, learn_steps), fused=True)
        self._begun = self._last = self._before_last = self.learner.integers()
        self._back = {name: torch.zeros(()) for name in self._last}

    def losses(self, inputs: tuple[Any, ...], targets: list[tuple[float, Any]]) -> Tensor:
        """The distance to the float network, and the task's own losses where they count."""
        task, count = self.task, len(inputs[0])
        with self.graph.applied(FLOAT), torch.no_grad():
            wanted = Answer(task, self.graph(*inputs), None, count)
        answer = Answer(task, self.learner(inputs), None, count)
        losses = task.imitation(answer, wanted)
        if self._labels:
            for share, values in targets:
                losses = losses + self._labels * share * task.scores(answer.raw, values, count)
        return losses

    def begin(self, epoch: int, batches: Callable[[], Iterable[tuple[Any, ...]]]) -> None:
        """Let the norms begin; settle steps and norms when it is time."""
        if epoch == 0:
            self.learner.begin(_some(batches()))
        if epoch >= self._settled_at and not self.learner.settled:
            self.learner.settle(_some(batches()))

    def end(self, batches: Callable[[], Iterable[tuple[Any, ...]]]) -> tuple[float | None, float | None, float, float]:
        """Measure on what is held out, and see which integers moved."""
        now = self.learner.integers()
        for name, share in self._back.items():
            share.fill_(returned_share(*({name: each[name]} for each in (now, self._last, self._before_last))))
        moved, back = moved_share(now, self._last), returned_share(now, self._last, self._before_last)
        self._before_last, self._last = self._last, now
        if self._holdout is None:
            return None, None, moved, back
        with self.learner.folded(_some(batches())):
            return *self._held(), moved, back

    def _held(self) -> tuple[float, float]:
        """Distance and primary figure on held-out data."""
        verdict = evaluate(self.graph, self.graph.policy, self._holdout, reference=self._floats, resamples=100)
        return verdict.distance.value, verdict.primary.value.value

    @property
    def ready(self) -> bool:
        """Once the steps are as they stay."""
        return self.learner.settled

    def state(self) -> dict[str, Tensor]:
        """What is learned, and the integers of the last two epochs."""
        past = {f"past {i}/{n}": v for i, each in enumerate((self._last, self._before_last)) for n, v in each.items()}
        back = {f"back/{name}": share.clone() for name, share in self._back.items()}
        return {**self.learner.state(), **past, **back}

    def load(self, state: dict[str, Tensor]) -> None:
        """Go back."""
        self.learner.load(state)
        self._last, self._before_last = ({name: state[f"past {i}/{name}"] for name in self._last} for i in (0, 1))
        self._back = {name: state[f"back/{name}"].clone() for name in self._back}

    def _moves(self, name: str) -> tuple[float, float]:
        """Shares of a weight's integers that changed since the start, and that oscillate."""
        return moved_share({name: self._last[name]}, {name: self._begun[name]}), float(self._back[name])

    def finish(self, loop: Loop, samples: int) -> Trained:
        """Give the graph what the best epoch learned, or leave it as it was."""
        assert loop.best is not None
        least, number, _ = loop.best
        notes: tuple[str, ...] = ()
        if self._start is not None and least >= self._start:
            number = 0
            self.learner.undo()
            notes = ("No epoch is nearer to float on the held-out samples than the start, which is kept.",)
        else:
            self.learner.finish()
        policy, kept = self.graph.policy, number > 0
        own = {name: self.graph.quantizers[name].own_grid(bits).scale for name, bits in policy.bits.items()}
        steps = {name: (scale / self.first[name]).flatten().cpu() for name, scale in own.items()}
        ratios = torch.cat(list(steps.values()))
        sites = [
            TrainedSite(name, bits, float(steps[name].median()), *(self._moves(name) if kept else (0.0, 0.0)))
            if name in self._begun
            else TrainedSite(name, bits, float(steps[name].median()), None, None)
            for name, bits in policy.bits.items()
        ]
        trained = sum(q.weight.numel() for q in self.learner.learned.values() if q.moves is not None)
        trained += sum(bias.start.numel() for bias in self.learner.biases)
        every = sum(p.numel() for p in self.graph.module.parameters())
        return Trained(
            policy.name,
            tuple(loop.rows),
            self._start,
            number,
            samples,
            max(1 - trained / max(every, 1), 0.0),
            (float(ratios.min()), float(ratios.median()), float(ratios.max())),
            tuple(sites),
            0.0,
            notes,
        )


def _some(batches: Iterable[tuple[Any, ...]]) -> Iterable[tuple[Any, ...]]:
    """The first batches, with about as many samples as statistics need."""
    seen = 0
    for inputs in batches:
        yield inputs
        seen += len(inputs[0])
        if seen >= STATISTICS:
            return
