"""What a model put out on the evaluation data, in the numbers that figures are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bitwright.errors import InvalidData, InvalidInput
from bitwright.graph.batches import check_target_shape, check_targets, iterate
from bitwright.graph.graph import Graph
from bitwright.values import FLOAT

Array = npt.NDArray[np.float64]
Loss = Callable[[Any, Any], Any]
Progress = Callable[[int, int | None], None]

KEEP_BYTES = 1 << 29  # float logits kept for further policies: 512 MiB


@dataclass(frozen=True)
class Outputs:
    """The float model on the evaluation data, made once and compared with many policies.

    Attributes:
        logits: one tensor for each batch, on the CPU; None when they were too large to keep (the float model then runs
            again beside each policy).
        targets: one tensor for each batch, on the CPU.
        losses: (N,) loss of each sample, averaged over positions; None when the loss function gives one number a batch.
        loss: mean loss.
        correct: (N,) share of correct positions of each sample; 0 or 1 for logits of shape (N, K).
        graph_hash: the graph that ran.
    """

    logits: tuple[Tensor, ...] | None
    targets: tuple[Tensor, ...]
    losses: Array | None
    loss: float
    correct: Array
    graph_hash: str = ""

    @property
    def samples(self) -> int:
        """Number of inputs."""
        return len(self.correct)

    @property
    def accuracy(self) -> float:
        """Share of correct predictions, 0 to 1."""
        return float(self.correct.mean())


def float_outputs(graph: Graph, batches: Any, *, loss: Loss | None = None, progress: Progress | None = None) -> Outputs:
    """Run the float model over some data, for comparisons with many policies.

    Args:
        graph: its policy is left as it was.
        batches: iterable of (inputs, targets), in the same order whenever it is iterated over.
        loss: as in :func:`~bitwright.evaluation.evaluate`.
        progress: called with (samples done, None).

    Raises:
        InvalidData: no data, or targets that do not fit the outputs.
    """
    tally = Tally(loss)
    logits: list[Tensor] = []
    targets: list[Tensor] = []
    size = 0
    with graph.applied(FLOAT), torch.no_grad():
        for inputs, wanted in iterate(batches, graph.device, "evaluation"):
            outputs = graph(*inputs)
            tally.add(outputs, wanted, log_probabilities(outputs, wanted))
            targets.append(wanted.cpu())
            size += outputs.numel() * outputs.element_size()
            logits = [*logits, outputs.cpu()] if size <= KEEP_BYTES else []
            if progress is not None:
                progress(tally.samples, None)
    return Outputs(
        tuple(logits) if size <= KEEP_BYTES else None,
        tuple(targets),
        tally.losses,
        tally.loss,
        tally.correct,
        graph.graph_hash,
    )


def log_probabilities(outputs: Any, targets: Any) -> Tensor:
    """Log-probabilities in float64, after checking that outputs are logits and that the targets fit them.

    Raises:
        InvalidInput: outputs that are not logits.
        InvalidData: targets that do not fit.
    """
    if not isinstance(outputs, Tensor) or outputs.dim() < 2 or outputs.shape[1] < 2:
        shape = f"shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else type(outputs).__name__
        raise InvalidInput(
            f"evaluation needs logits of shape (batch, classes, ...) with at least 2 classes, got {shape}; "
            "wrap the model so that it returns its logits, or use evaluate_regression"
        )
    if not bool(torch.isfinite(outputs).all()):
        raise InvalidData("the model's outputs hold NaN or infinite values; check weights and inputs")
    check_target_shape(outputs, targets)
    check_targets(targets, outputs.shape[1])
    return outputs.double().log_softmax(1)


def per_sample(values: Tensor) -> Array:
    """(N,) means over everything but the batch dimension, float64."""
    values = values.double()
    return (values.flatten(1).mean(1) if values.dim() > 1 else values).cpu().numpy()


class Tally:
    """Adds up one model's losses and hits, batch by batch."""

    def __init__(self, loss: Loss | None) -> None:
        self._function = loss
        self._losses: list[Array] = []
        self._means: list[tuple[float, int]] = []
        self._correct: list[Array] = []
        self.samples = 0

    def add(self, outputs: Tensor, targets: Tensor, log_probs: Tensor) -> None:
        """Take in one batch.

        Raises:
            InvalidInput: a loss function that returns neither one number per sample nor one per batch.
        """
        count = len(outputs)
        if self._function is None:
            values = -log_probs.gather(1, targets.unsqueeze(1).long()).squeeze(1)
        else:
            values = torch.as_tensor(self._function(outputs, targets))
        if values.dim() == 0:
            self._means.append((float(values), count))
        elif values.shape[0] == count:
            self._losses.append(per_sample(values))
            self._means.append((float(self._losses[-1].mean()), count))
        else:
            raise InvalidInput(
                f"loss must return one number per sample, shape ({count}, ...), or one for the batch, "
                f"got shape {tuple(values.shape)}"
            )
        if not np.isfinite(self._means[-1][0]):
            raise InvalidData("the loss is not finite; check the loss function and the targets")
        self._correct.append(per_sample(outputs.argmax(1) == targets))
        self.samples += count

    @property
    def losses(self) -> Array | None:
        """(N,) or None when the loss function gives one number a batch."""
        return np.concatenate(self._losses) if len(self._losses) == len(self._means) else None

    @property
    def loss(self) -> float:
        """Mean loss; one-number batches count by their samples."""
        return sum(value * count for value, count in self._means) / self.samples

    @property
    def correct(self) -> Array:
        """(N,) share of correct positions of each sample."""
        return np.concatenate(self._correct)
