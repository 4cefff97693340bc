"""The loop of every training: epochs over batches, a rate that falls along a cosine, checkpoints, the best epoch.

What is trained is a :class:`Pupil`; what a step does with a batch, a strategy; who shares the work, the workers.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bitwright.errors import InvalidData, InvalidInput
from bitwright.train.checkpoint import keep, taken_up
from bitwright.train.feed import Feed, picked
from bitwright.train.strategy import Steps
from bitwright.train.workers import Workers
from bitwright.values.trained import Epoch

Progress = Callable[[int, int], None]


class Pupil(ABC):
    """What a loop trains."""

    optimizer: torch.optim.Optimizer

    @abstractmethod
    def losses(self, inputs: tuple[Any, ...], targets: list[tuple[float, Any]]) -> Tensor:
        """(N,) losses with gradients; targets with the shares by which they count."""

    def begin(self, epoch: int, batches: Callable[[], Iterable[tuple[Any, ...]]]) -> None:
        """Called before each epoch, counted from 0, with the inputs of its batches, to be read if they are needed."""
        return

    def end(self, batches: Callable[[], Iterable[tuple[Any, ...]]]) -> tuple[float | None, float | None, float, float]:
        """Called after each epoch: distance and primary figure on held-out data, shares moved and oscillating."""
        return None, None, 0.0, 0.0

    @property
    def ready(self) -> bool:
        """Whether its present state may be the result; the states before that are only on the way there."""
        return True

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Everything that is learned, copied."""

    @abstractmethod
    def load(self, state: dict[str, Tensor]) -> None:
        """Go back to such a state."""


class Loop:
    """A training, between epochs.

    Args:
        pupil: what is trained.
        feed: the batches.
        strategy: what a step does with a batch.
        epochs: passes over the data.
        workers: who shares the work.
        patience: ready epochs without a better one after which training stops; None: it never stops early.

    Attributes:
        rows: the epochs so far.
        best: the best ready epoch's distance, its number from 1, and its state; the last one without held-out data.
    """

    def __init__(
        self, pupil: Pupil, feed: Feed, strategy: Steps, epochs: int, workers: Workers, patience: int | None = None
    ) -> None:
        self.pupil, self.feed, self.strategy = pupil, feed, strategy
        self.epochs, self.workers, self.patience = epochs, workers, patience
        self._top = [group["lr"] for group in pupil.optimizer.param_groups]
        self.rows: list[Epoch] = []
        self.best: tuple[float, int, dict[str, Tensor]] | None = None

    def run(self, key: str = "", checkpoint: Path | None = None, progress: Progress | None = None) -> None:
        """Train, or go on training from a checkpoint.

        Args:
            key: what a checkpoint must belong to.
            checkpoint: a file that keeps the state after each epoch; it is removed at the end.
            progress: called with (steps done, steps in all).

        Raises:
            InvalidInput: the file is no checkpoint, or that of another training.
            InvalidData: a loss that is not finite.
        """
        if checkpoint is not None and checkpoint.exists():
            self._resume(checkpoint, key)
        while len(self.rows) < self.epochs and not self._tired:
            self._epoch(progress)
            if checkpoint is not None and self.workers.rank == 0:
                self._save(checkpoint, key)
        assert self.best is not None
        self.pupil.load(self.best[2])
        if checkpoint is not None and self.workers.rank == 0:
            checkpoint.unlink(missing_ok=True)

    @property
    def _tired(self) -> bool:
        return self.patience is not None and self.best is not None and len(self.rows) - self.best[1] >= self.patience

    def _epoch(self, progress: Progress | None) -> None:
        number = len(self.rows)

        def batches() -> Iterable[tuple[Any, ...]]:
            return (inputs for inputs, _ in self.feed.epoch(number))

        self.pupil.begin(number, batches)
        total, count = 0.0, 0
        for done, (inputs, targets) in enumerate(self.feed.epoch(number)):
            self._set_rate(number + done / self.feed.batches)
            total += self._step(inputs, targets) * len(inputs[0])
            count += len(inputs[0])
            if progress is not None:
                progress(number * self.feed.batches + done + 1, self.epochs * self.feed.batches)
        self._set_rate(number + 1)
        distance, primary, moved, oscillating = self.pupil.end(batches)
        self.rows.append(Epoch(total / count, distance, primary, moved, oscillating, self._share(number + 1)))
        if self.pupil.ready:
            least = -number if distance is None else distance
            if self.best is None or least <= self.best[0]:
                self.best = least, number + 1, self.pupil.state()

    def _share(self, position: float) -> float:
        return (1 + math.cos(math.pi * position / self.epochs)) / 2

    def _set_rate(self, position: float) -> None:
        for group, top in zip(self.pupil.optimizer.param_groups, self._top, strict=True):
            group["lr"] = top * self._share(position)

    def _step(self, inputs: tuple[Any, ...], targets: Any) -> float:
        workers, optimizer, count = self.workers, self.pupil.optimizer, len(inputs[0])
        if count < workers.count:
            raise InvalidData(f"a batch of {count} samples is too small for {workers.count} processes")

        def lesson(inputs: tuple[Any, ...], *targets: tuple[float, Any]) -> Tensor:
            if workers.count == 1:
                return self.pupil.losses(inputs, list(targets))
            own = workers.own(count).to(inputs[0].device)
            part = [(share, picked(values, own)) for share, values in targets]
            return self.pupil.losses(tuple(value[own] for value in inputs), part)

        with workers.precision():
            loss = self.strategy(lesson, inputs, targets).sum() / count
        value = float(workers.total(loss.detach()))
        if not math.isfinite(value):
            raise InvalidData("the loss of training is not finite; lower the learning rate, or check the data")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        workers.share_gradients(each for group in optimizer.param_groups for each in group["params"])
        optimizer.step()
        return value

    def _save(self, file: Path, key: str) -> None:
        state = {
            "rows": [row.to_dict() for row in self.rows],
            "learned": self.pupil.state(),
            "optimizer": self.pupil.optimizer.state_dict(),
            "best": None if self.best is None else list(self.best),
        }
        keep(file, key, state)

    def _resume(self, file: Path, key: str) -> None:
        state = taken_up(file, key, "training")
        self.pupil.load(state["learned"])
        self.pupil.optimizer.load_state_dict(state["optimizer"])
        self.rows = [Epoch.from_dict(row) for row in state["rows"]]
        self.best = None if state["best"] is None else tuple(state["best"])


def check_epochs(epochs: Any, patience: Any = None) -> None:
    """Raise :class:`InvalidInput` for numbers of epochs that cannot be used."""
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
        raise InvalidInput(f"epochs must be a whole number of at least 1, got {epochs!r}")
    if patience is not None and (isinstance(patience, bool) or not isinstance(patience, int) or patience < 1):
        raise InvalidInput(f"patience must be a whole number of at least 1, got {patience!r}")
