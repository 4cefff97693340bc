"""Classification: one class for each sample, from logits (N, K). The distance is the KL divergence from float."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor

from bitwright.errors import InvalidData, InvalidInput
from bitwright.graph.outputs import flatten
from bitwright.tasks.base import TASKS, Answer, Task, Values
from bitwright.tasks.outputs import Named, per_sample
from bitwright.values import Measure

ACCURACY = Measure("accuracy", "Top-1", "share")
AGREEMENT = Measure("agreement", "Agrees with float", "share")
KL = Measure("kl", "KL to float", "nats", larger=False)
LOSS = Measure("loss", "Loss", larger=False, relative=True)
TEMPERATURE = 2.0
"""Of the probabilities that training imitates: unlikely classes then count, too."""
IGNORED = -100
"""The target that PyTorch's cross-entropy leaves out, too."""


@dataclass
class Head:
    """One output of a batch.

    Attributes:
        logits: (N, K, ...) with the classes on axis 1.
        targets: (N, ...) class numbers, or None.
        counted: (N, ...) which positions count; None: all.
    """

    logits: Tensor
    targets: Tensor | None
    counted: Tensor | None

    @cached_property
    def log_probabilities(self) -> Tensor:
        """(N, K, ...) in float64."""
        return self.logits.double().log_softmax(1)

    @cached_property
    def predicted(self) -> Tensor:
        """(N, ...) classes."""
        return self.logits.argmax(1)

    @cached_property
    def correct(self) -> Tensor:
        """(N,) share of the positions that are right."""
        assert self.targets is not None
        return per_sample(torch.eq(self.predicted, self.targets), self.counted)

    @cached_property
    def losses(self) -> Tensor:
        """(N,) cross-entropy in nats, averaged over the positions."""
        assert self.targets is not None
        wanted = self.targets if self.counted is None else self.targets.where(self.counted, 0)
        values = -self.log_probabilities.gather(1, wanted.unsqueeze(1).long()).squeeze(1)
        return per_sample(values, self.counted)


class Classes(Task):
    """What classification, dense prediction and language modelling share: logits of classes.

    Of several outputs all are compared, and the distance is the sum of theirs; targets given as one tensor are those
    of the first output, targets of several come in a dictionary by name.

    Args:
        output: the name of the output that holds the logits, where the others hold something else.
        options: see :class:`~bitwright.tasks.base.Task`.
    """

    measures: tuple[Measure, ...] = (ACCURACY, AGREEMENT, KL, LOSS)
    primary, distance, agreement, bound = "accuracy", "kl", "agreement", "agreement"
    harm = "squared change of the loss (nats^2)"

    def __init__(self, *data: Any, output: str | None = None, **options: Any) -> None:
        super().__init__(*data, **options)
        self.output = output

    @abstractmethod
    def head(self, logits: Tensor, targets: Any) -> Head:
        """One output with its targets, checked."""

    def read(self, outputs: Named, targets: Any) -> dict[str, Head]:
        """The heads by name."""
        return {name: self.head(value, wanted) for name, value, wanted in self._chosen(outputs, targets)}

    def _chosen(self, outputs: Named, targets: Any) -> list[tuple[str, Tensor, Any]]:
        if self.output is not None and self.output not in outputs:
            raise InvalidInput(f"output must be one of {', '.join(outputs)}, got '{self.output}'")
        names = [self.output] if self.output is not None else list(outputs)
        widths = {name: outputs[name].shape[1] if outputs[name].dim() > 1 else 1 for name in names}
        if len(set(widths.values())) > 1 and not isinstance(targets, Mapping):
            told = ", ".join(f"'{name}' ({width})" for name, width in widths.items())
            raise InvalidInput(
                f"the network's outputs have different numbers of classes: {told}; name the one that holds the logits, "
                f"e.g. --returns {'logits' if 'logits' in names else names[-1]} (returns= of bw.capture), or give the "
                "targets as a dictionary by the outputs' names"
            )
        known = targets if isinstance(targets, Mapping) else {names[0]: targets}
        unknown = [name for name in known if name not in names]
        if unknown:
            raise InvalidData(f"the targets name '{unknown[0]}', and the network's outputs are {', '.join(names)}")
        return [(name, outputs[name], known.get(name)) for name in names]

    def own(self, answer: Answer) -> Values:
        """Accuracy and loss, averaged over the outputs that have targets."""
        heads = [head for head in answer.read.values() if head.targets is not None]
        if not heads:
            return {}
        return {
            "accuracy": torch.stack([head.correct for head in heads]).mean(0),
            "loss": torch.stack([head.losses for head in heads]).mean(0),
        }

    def against(self, answer: Answer, expected: Answer) -> Values:
        """KL divergence, the sum over the outputs; agreement, averaged over them."""
        divergences, agreements = [], []
        for name, head in expected.read.items():
            p, q = head.log_probabilities, answer.read[name].log_probabilities
            # Rounding can make a divergence of nothing come out a little below zero.
            divergences.append(per_sample((p.exp() * (p - q)).sum(1), head.counted).clamp_min(0))
            agreements.append(per_sample(head.predicted == answer.read[name].predicted, head.counted))
        return {"kl": torch.stack(divergences).sum(0), "agreement": torch.stack(agreements).mean(0)}

    def score(self, outputs: Any, targets: Any) -> Tensor:
        """(N,) cross-entropies, averaged over the positions that count and over the outputs that have targets."""
        losses = []
        for head in self.read(flatten(outputs), targets).values():
            if head.targets is not None:
                wanted = head.targets if head.counted is None else head.targets.where(head.counted, IGNORED)
                values = functional.cross_entropy(head.logits, wanted, reduction="none", ignore_index=IGNORED)
                counts = None if head.counted is None else head.counted.flatten(1).sum(1)
                values = values.flatten(1) if values.dim() > 1 else values[:, None]
                losses.append(values.mean(1) if counts is None else values.sum(1) / counts)
        if not losses:
            raise InvalidData("targets are needed here: batches must be (inputs, targets) with class indices")
        return torch.stack(losses).mean(0) if len(losses) > 1 else losses[0]

    def imitation(self, answer: Answer, expected: Answer) -> Tensor:
        """KL divergences at a temperature of 2 (Hinton et al., 2015), times its square; the sum over the outputs."""
        found = []
        for name, head in expected.read.items():
            p, q = ((one.read[name].logits / TEMPERATURE).log_softmax(1) for one in (expected, answer))
            found.append(per_sample((p.exp() * (p - q)).sum(1), head.counted))
        return torch.stack(found).sum(0) * TEMPERATURE**2

    def explained(self, outputs: Any, expected: Any) -> Tensor:
        """(N,) logits of the classes that float predicts, averaged over positions and outputs."""
        found = []
        wanted = self.read(flatten(expected), None)
        for name, head in self.read(flatten(outputs), None).items():
            values = head.logits.gather(1, wanted[name].predicted.unsqueeze(1)).squeeze(1)
            found.append(values.flatten(1).mean(1) if values.dim() > 1 else values)
        return torch.stack(found).mean(0)

    def guess(self, targets: Iterable[Any]) -> float | None:
        """The share of the most frequent class among the targets."""
        tensors = [t for t in targets if isinstance(t, Tensor)]
        if self.primary != "accuracy" or not tensors:
            return None
        whole = torch.cat([t.flatten() for t in tensors]).long()
        counts = whole[whole >= 0].bincount()
        return float(counts.max() / counts.sum())


@TASKS.register
class Classification(Classes):
    """One class for each sample: logits (N, K), class numbers (N,)."""

    name, does, order = "classification", "one class for each sample, from logits (N, K)", 10

    def head(self, logits: Tensor, targets: Any) -> Head:
        """Logits (N, K) with class numbers (N,)."""
        if logits.dim() != 2 or logits.shape[1] < 2:
            raise InvalidInput(
                f"the task '{self.name}' needs logits of shape (batch, classes) with at least 2 classes, got shape "
                f"{tuple(logits.shape)}; name their output (output=), wrap the model, or take another task"
            )
        check_classes(logits, targets)
        return Head(logits, targets, None)

    def probabilities(self, outputs: Any) -> Tensor | None:
        """(N, K) softmax of the logits; None for several outputs."""
        heads = list(self.read(flatten(outputs), None).values())
        return heads[0].logits.softmax(1) if len(heads) == 1 else None

    def margin(self, outputs: Any) -> Tensor | None:
        """(N,) differences of the two largest logits; None for several outputs."""
        heads = list(self.read(flatten(outputs), None).values())
        if len(heads) > 1:
            return None
        top = heads[0].logits.topk(2, dim=1).values
        return top[:, 0] - top[:, 1]


def check_classes(logits: Tensor, targets: Any, counted: Tensor | None = None) -> None:
    """Check class numbers for logits (N, K, ...), where there are any.

    Raises:
        InvalidInput: targets that fit logits whose classes are the last axis, and only those.
        InvalidData: targets that are no class numbers, of another shape, or outside the classes.
    """
    if targets is None:
        return
    if not isinstance(targets, Tensor):
        raise InvalidData(f"targets must be a tensor of class indices, got {type(targets).__name__}")
    if targets.is_floating_point():
        raise InvalidData(f"targets must be class indices (integers), got {targets.dtype}")
    shape = tuple(logits.shape)
    if tuple(targets.shape) != (shape[0], *shape[2:]):
        if len(shape) > 2 and tuple(targets.shape) == shape[:-1]:
            raise InvalidInput(
                f"classes must be axis 1 of the logits, (batch, classes, ...), got shape {shape} for targets of shape "
                f"{shape[:-1]}; for next tokens take the task 'language' (language?shifted=false where "
                "the targets are the tokens themselves), else 'dense?last=true'"
            )
        wanted = (shape[0], *shape[2:])
        raise InvalidData(f"targets must have shape {wanted} for outputs of shape {shape}, got {tuple(targets.shape)}")
    values = targets if counted is None else targets[counted]
    low, high = (int(values.min()), int(values.max())) if values.numel() else (0, 0)
    if low < 0 or high >= shape[1]:
        wrong = low if low < 0 else high
        raise InvalidData(
            f"targets must be between 0 and {shape[1] - 1} (the model has {shape[1]} outputs), got {wrong}"
            + (
                f"; where that marks positions that do not count, take the task 'dense?ignore={wrong}'"
                * (len(shape) > 2)
            )
        )
