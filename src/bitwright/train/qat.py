"""Quantization-aware training: weights, steps and biases learned under the rounding that they will run with."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bitwright.arguments import checked
from bitwright.errors import InvalidData, InvalidInput
from bitwright.files import write_atomically
from bitwright.graph.graph import Graph
from bitwright.store import content_key
from bitwright.tasks.base import Answer, Task
from bitwright.tasks.evaluate import evaluate, reference
from bitwright.tasks.infer import task_for
from bitwright.train.feed import Augment, Feed
from bitwright.train.learner import Learner, moved_share, returned_share
from bitwright.values import FLOAT, Policy
from bitwright.values.json import Value

SHORTENED_AFTER = 0.6
"""Share of the epochs in which steps are learned; then they become short, and weights follow for the rest."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Epoch(Value):
    """One epoch of training.

    Attributes:
        loss: what was brought down, the mean over the samples of the epoch.
        distance: to the float model on held-out data, after the epoch; None without such data.
        primary: the task's primary figure there, likewise.
        moved: share of the weights whose integers changed in the epoch.
        oscillating: share of those that went back to where they were an epoch earlier.
        rate: learning rate at its end, in steps of the grids.
    """

    loss: float
    distance: float | None
    primary: float | None
    moved: float
    oscillating: float
    rate: float


@dataclass(frozen=True)
class Trained(Value, kind="training"):
    """How a training went.

    Attributes:
        policy_name: the policy that was trained.
        epochs: one entry for each, in their order.
        start: distance to the float model on held-out data before the training; None without such data.
        best: number of the epoch whose result was taken, counted from 1; 0 where none is nearer to float on held-out
            data than the start, which then stays.
        samples: of the training data.
        float_left: share of the parameters that were not trained, because they are not quantized.
        steps: the steps of activations and weights after training, as a ratio to those before: their least, median and
            largest.
        seconds: wall time.
        notes: what to keep in mind.
    """

    policy_name: str
    epochs: tuple[Epoch, ...]
    start: float | None
    best: int
    samples: int
    float_left: float
    steps: tuple[float, float, float]
    seconds: float
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        last = self.epochs[max(self.best, 1) - 1]
        held = "" if last.distance is None else f", held-out distance to float {last.distance:.4g}"
        return (
            f"{self.policy_name}: {len(self.epochs)} epochs of {self.samples} samples, loss "
            f"{self.epochs[0].loss:.4g} to {last.loss:.4g}{held} ({self.seconds:.0f} s)"
        )


@checked
def qat(
    graph: Graph,
    batches: Any,
    policy: Policy | None = None,
    *,
    task: Task | str | None = None,
    epochs: int = 10,
    learning_rate: float = 0.01,
    labels: float = 0.0,
    augment: Augment | None = None,
    shuffle: bool | None = None,
    holdout: Any = None,
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
    :mod:`bitwright.quantizers.learned_step`), with a learning rate that falls to zero along a cosine. After 60 % of the
    epochs the steps become those that runtimes compute with exactly, and weights and biases go on learning with them.

    Args:
        graph: calibrated; best after repairs such as ``"gptq"``, from whose integers training starts.
        batches: training data, (inputs, targets). A list is mixed anew in each epoch; a loader comes in its own order.
        policy: the widths; None for the current policy. It is the current one afterwards.
        task: what the outputs mean; None: inferred.
        epochs: passes over the data.
        learning_rate: the largest one, in grid steps for each step of the optimizer.
        labels: weight of the task's own loss against the targets; 0: none.
        augment: changes the inputs of a batch at random, e.g. :func:`~bitwright.train.feed.mirrored_and_shifted`.
        shuffle: mix the samples; None: a list, yes, a loader, no.
        holdout: batches that are not trained on; the epoch with the least distance to float on them is taken, or the
            start, if none is nearer.
        checkpoint: a file that keeps the state after each epoch; training that was interrupted goes on from there, to
            the same result. It is removed at the end.
        seed: of order, augmentation and whatever else is drawn at random.
        progress: called with (steps done, steps in all).

    Returns:
        The course of the training.

    Raises:
        InvalidInput: no policy, no ranges, settings that cannot be used, or a checkpoint of another training.
        InvalidData: no data, or a loss that is not finite.
    """
    check_settings(epochs, learning_rate, labels)
    start = time.perf_counter()
    chosen = graph.policy if policy is None else policy
    if not len(chosen):
        raise InvalidInput(
            "policy must say which widths are trained; pass policy=bw.Policy.uniform(graph.sites, 4, 4), "
            "or apply a policy to the graph first"
        )
    graph.apply(chosen)
    feed = Feed(batches, graph, seed, shuffle, augment)
    if feed.samples < 2:
        raise InvalidData(f"training needs at least 2 samples, got {feed.samples}")
    meant = task_for(graph, batches, task)
    if labels and feed.unlabelled:
        raise InvalidInput(f"labels={labels:g} needs targets, and the batches have none; pass (inputs, targets)")
    work = _Work(graph, feed, meant, epochs, learning_rate, labels, holdout, seed)
    file = None if checkpoint is None else Path(checkpoint)
    try:
        work.resume(file)
        while len(work.rows) < epochs:
            work.epoch(progress)
            work.save(file)
    except BaseException:
        work.learner.undo()
        raise
    found = work.finish(time.perf_counter() - start)
    if file is not None:
        file.unlink(missing_ok=True)
    return found


def check_settings(epochs: int, learning_rate: float, labels: float) -> None:
    """Raise :class:`InvalidInput` for settings of :func:`qat` that cannot be used."""
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
        raise InvalidInput(f"epochs must be a whole number of at least 1, got {epochs!r}")
    if not 0 < learning_rate <= 1:
        raise InvalidInput(f"learning_rate must be above 0 and at most 1 grid step, got {learning_rate!r}")
    if not 0 <= labels < math.inf:
        raise InvalidInput(f"labels must be 0 or more, got {labels!r}")


class _Work:
    """One training, between epochs."""

    def __init__(
        self, graph: Graph, feed: Feed, task: Task, epochs: int, rate: float, labels: float, holdout: Any, seed: int
    ) -> None:
        self.graph, self.feed, self.task = graph, feed, task
        self.epochs, self.rate, self.labels, self.seed = epochs, rate, labels, seed
        self.holdout = holdout
        self.floats = None if holdout is None else reference(graph, holdout, task)
        self.shortened_at = min(max(round(epochs * SHORTENED_AFTER), 1), epochs - 1)
        self.first = {name: graph.quantizers[name].own_grid(bits).scale for name, bits in graph.policy.bits.items()}
        self.start = None if holdout is None else self._held()[0]
        self.learner = Learner(graph)
        groups = [group for group in self.learner.groups(rate) if group["params"]]
        self.optimizer = torch.optim.Adam(groups, fused=True)
        self.top = [group["lr"] for group in groups]
        self.rows: list[Epoch] = []
        self.best: tuple[float, int, dict[str, Tensor]] | None = None
        self.short = False
        self.last = self.learner.integers()
        self.before_last = self.last

    def epoch(self, progress: Progress | None) -> None:
        """Train for one epoch, and look at held-out data."""
        number = len(self.rows)
        if number >= self.shortened_at and not self.short:
            self.learner.shorten()
            self.short = True
        total, count = 0.0, 0
        for done, (inputs, targets) in enumerate(self.feed.epoch(number)):
            self._set_rate(number + done / self.feed.batches)
            loss = self._step(inputs, targets)
            total += loss * len(inputs[0])
            count += len(inputs[0])
            if progress is not None:
                progress(number * self.feed.batches + done + 1, self.epochs * self.feed.batches)
        self._set_rate(number + 1)
        self.learner.refresh()
        now = self.learner.integers()
        moved, back = moved_share(now, self.last), returned_share(now, self.last, self.before_last)
        self.before_last, self.last = self.last, now
        distance, primary = (None, None) if self.holdout is None else self._held()
        self.rows.append(Epoch(total / count, distance, primary, moved, back, self.rate * self._share(number + 1)))
        if self.short or self.epochs == 1:
            least = -number if distance is None else distance
            if self.best is None or least <= self.best[0]:
                self.best = least, number + 1, self.learner.state()

    def _held(self) -> tuple[float, float]:
        """Distance and primary figure on held-out data."""
        verdict = evaluate(self.graph, self.graph.policy, self.holdout, reference=self.floats, resamples=100)
        return verdict.distance.value, verdict.primary.value.value

    def _share(self, position: float) -> float:
        return (1 + math.cos(math.pi * position / self.epochs)) / 2

    def _set_rate(self, position: float) -> None:
        for group, top in zip(self.optimizer.param_groups, self.top, strict=True):
            group["lr"] = top * self._share(position)

    def _step(self, inputs: tuple[Any, ...], targets: Any) -> float:
        graph, task, count = self.graph, self.task, len(inputs[0])
        with graph.applied(FLOAT), torch.no_grad():
            wanted = Answer(task, graph(*inputs), None, count)
        self.learner.refresh()
        answer = Answer(task, graph(*inputs), targets if self.labels else None, count)
        losses = task.imitation(answer, wanted)
        if self.labels:
            losses = losses + self.labels * task.scores(answer.raw, targets, count)
        loss = losses.mean()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise InvalidData("the loss of training is not finite; lower the learning rate, or check the data")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return value

    @property
    def key(self) -> str:
        """What a checkpoint must belong to."""
        scales = {name: scale.detach().cpu().flatten().tolist() for name, scale in self.first.items()}
        return content_key(
            graph=self.graph.graph_hash,
            policy=self.graph.policy,
            repairs=self.graph.repairs,
            settings=[self.epochs, self.rate, self.labels, self.seed],
            samples=[self.feed.samples, self.feed.batches],
            augment=self.feed.augment,
            task=self.task.name,
            scales=scales,
        )

    def save(self, file: Path | None) -> None:
        """Keep the state in a file."""
        if file is None:
            return
        best = None if self.best is None else list(self.best)
        state = {
            "key": self.key,
            "rows": [row.to_dict() for row in self.rows],
            "learned": self.learner.state(),
            "short": self.short,
            "optimizer": self.optimizer.state_dict(),
            "best": best,
            "integers": [self.last, self.before_last],
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomically(file, buffer.getvalue())

    def resume(self, file: Path | None) -> None:
        """Go on from a file, where there is one."""
        if file is None or not file.exists():
            return
        try:
            state = torch.load(file, weights_only=True, map_location=self.graph.device)
        except Exception as error:
            raise InvalidInput(f"checkpoint '{file}' cannot be read ({type(error).__name__}); remove it") from error
        if state.get("key") != self.key:
            raise InvalidInput(f"checkpoint '{file}' belongs to another training; remove it, or name another file")
        self.short = bool(state["short"])
        self.learner.load(state["learned"], self.short)
        self.optimizer.load_state_dict(state["optimizer"])
        self.rows = [Epoch.from_dict(row) for row in state["rows"]]
        self.best = None if state["best"] is None else tuple(state["best"])
        self.last, self.before_last = state["integers"]

    def finish(self, seconds: float) -> Trained:
        """Take the best epoch's result."""
        assert self.best is not None
        least, number, state = self.best
        notes: tuple[str, ...] = ()
        if self.start is not None and least >= self.start:
            number = 0
            self.learner.undo()
            notes = ("No epoch is nearer to float on the held-out samples than the start, which is kept.",)
        else:
            self.learner.load(state, short=self.short)
            self.learner.finish()
        policy = self.graph.policy
        ratios = torch.cat(
            [
                (self.graph.quantizers[name].own_grid(bits).scale / self.first[name]).flatten().cpu()
                for name, bits in policy.bits.items()
            ]
        )
        trained = sum(q.weight.numel() for q in self.learner.learned.values() if q.moves is not None)
        trained += sum(bias.start.numel() for bias in self.learner.biases)
        every = sum(p.numel() for p in self.graph.module.parameters())
        return Trained(
            policy.name,
            tuple(self.rows),
            self.start,
            number,
            self.feed.samples,
            max(1 - trained / max(every, 1), 0.0),
            (float(ratios.min()), float(ratios.median()), float(ratios.max())),
            seconds,
            notes,
        )
