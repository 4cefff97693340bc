"""A float network trained further, by any strategy: the user's own stays as it is."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bitwright.arguments import checked
from bitwright.errors import InvalidData, InvalidInput
from bitwright.graph.batches import iterate
from bitwright.graph.capture import digest_with
from bitwright.store import content_key
from bitwright.tasks.base import Answer, Task
from bitwright.tasks.infer import infer, named_task
from bitwright.train.feed import Augment, Feed
from bitwright.train.loop import Loop, Progress, Pupil, check_epochs
from bitwright.train.strategy import named_strategy
from bitwright.train.workers import Precision, workers
from bitwright.values.trained import Epoch


@checked
def finetune(
    model: nn.Module,
    batches: Any,
    *,
    task: Task | str | None = None,
    epochs: int = 5,
    strategy: str = "standard",
    learning_rate: float = 0.01,
    weight_decay: float = 5e-4,
    augment: Augment | None = None,
    shuffle: bool | None = None,
    holdout: Any = None,
    patience: int | None = None,
    precision: Precision = "no",
    checkpoint: str | Path | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[nn.Module, tuple[Epoch, ...]]:
    """Train a copy of a float network further on the task's own loss.

    By SGD with Nesterov momentum of 0.9, at a rate that falls to zero along a cosine.

    Args:
        model: takes the inputs of a batch; is not changed.
        batches: training data, (inputs, targets). A list is mixed anew in each epoch; a loader comes in its own order.
        task: what the outputs mean; None: inferred.
        epochs: passes over the data.
        strategy: what a step does with a batch, by name, e.g. ``"adversarial?radius=0.05"``.
        learning_rate: the largest one.
        weight_decay: of all parameters.
        augment: changes the inputs of a batch at random.
        shuffle: mix the samples; None: a list, yes, a loader, no.
        holdout: batches that are not trained on; the epoch with the least loss on them is taken.
        patience: epochs without a better one after which training stops; None: never.
        precision: ``"bf16"`` computes in bfloat16 where that is safe (with Accelerate).
        checkpoint: a file that keeps the state after each epoch, to go on from after an interruption.
        seed: of order, augmentation and whatever else is drawn at random.
        progress: called with (steps done, steps in all).

    Returns:
        The trained network, in evaluation mode, and its epochs, whose ``distance`` is the loss on held-out data.

    Raises:
        InvalidInput: settings that cannot be used.
        InvalidData: no data, no targets, or a loss that is not finite.
    """
    check_epochs(epochs, patience)
    if not 0 < learning_rate < float("inf"):
        raise InvalidInput(f"learning_rate must be above 0, got {learning_rate!r}")
    if not 0 <= weight_decay < float("inf"):
        raise InvalidInput(f"weight_decay must be 0 or more, got {weight_decay!r}")
    steps, helpers = named_strategy(strategy), workers(precision)
    device = next((each.device for each in model.parameters()), torch.device("cpu"))
    feed = Feed(batches, None, seed, shuffle, augment)
    if feed.unlabelled:
        raise InvalidData("fine-tuning needs targets, and the batches have none; pass (inputs, targets)")
    trained = copy.deepcopy(model).to(helpers.device or device)
    pupil = _Float(trained, task, feed, holdout, learning_rate, weight_decay)
    loop = Loop(pupil, feed, steps, epochs, helpers, patience)
    key = content_key(
        weights=digest_with(hashlib.sha256(), model.state_dict()),
        settings=[epochs, strategy, learning_rate, weight_decay, patience, precision, seed],
        samples=[feed.samples, feed.batches],
        augment=augment,
        task=pupil.task.name,
    )
    loop.run(key, None if checkpoint is None else Path(checkpoint), progress)
    return trained.eval().to(device), tuple(loop.rows)


class _Float(Pupil):
    """A float network and its own loss."""

    def __init__(
        self, model: nn.Module, task: Task | str | None, feed: Feed, holdout: Any, rate: float, decay: float
    ) -> None:
        self._model, self._holdout = model, holdout
        if isinstance(task, Task):
            self.task = task
        elif task is not None:
            self.task = named_task(task)
        else:
            inputs, targets = next(iter(feed.epoch(0)))
            with torch.no_grad():
                self.task = infer(model.eval()(*self._here(inputs)), targets)
        self.optimizer = torch.optim.SGD(model.parameters(), rate, 0.9, weight_decay=decay, nesterov=True)

    def _here(self, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        device = next((each.device for each in self._model.parameters()), torch.device("cpu"))
        return tuple(value.to(device) for value in inputs)

    def losses(self, inputs: tuple[Any, ...], targets: list[tuple[float, Any]]) -> Tensor:
        """The task's losses."""
        answer = Answer(self.task, self._model(*self._here(inputs)), None, len(inputs[0]))
        parts = [share * self.task.scores(answer.raw, values, answer.count) for share, values in targets]
        return torch.stack(parts).sum(0)

    def begin(self, epoch: int, batches: Callable[[], Iterable[tuple[Any, ...]]]) -> None:
        """Batch norms and dropout as in training."""
        self._model.train()

    def end(self, batches: Callable[[], Iterable[tuple[Any, ...]]]) -> tuple[float | None, float | None, float, float]:
        """The mean loss on held-out data."""
        self._model.eval()
        if self._holdout is None:
            return None, None, 0.0, 0.0
        total, count = 0.0, 0
        with torch.no_grad():
            for inputs, targets in iterate(self._holdout, purpose="held-out data"):
                total += float(self.losses(inputs, [(1.0, targets)]).sum())
                count += len(inputs[0])
        return total / count, None, 0.0, 0.0

    def state(self) -> dict[str, Tensor]:
        """Parameters and buffers."""
        return {name: value.detach().clone() for name, value in self._model.state_dict().items()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Go back."""
        self._model.load_state_dict(state)
