"""Language modelling: the next token at each position, from logits (N, T, V). Perplexity decides."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from bitwright.errors import InvalidData, InvalidInput
from bitwright.tasks.base import TASKS, Answer, Evidence, Values, whole
from bitwright.tasks.classification import AGREEMENT, KL, LOSS, Classes, Head, check_classes
from bitwright.tasks.dense import counting
from bitwright.tasks.intervals import Array, Draws, Statistic
from bitwright.tasks.outputs import Named
from bitwright.values import Figure, Measure

PERPLEXITY = Measure("perplexity", "Perplexity", larger=False, relative=True)


@TASKS.register
class Language(Classes):
    """The next token: logits (N, T, V), the token that comes next at each position (N, T).

    Perplexity is exp(sum of all tokens' cross-entropies / number of tokens); the other figures are averages over the
    positions of each sequence. There is no margin, so FIT takes the place of Margin-FIT.

    Args:
        shifted: whether targets are the next tokens, as here; otherwise they are the input tokens themselves, and the
            logits of each position are compared with the token that follows it.
        ignore: the target of positions that do not count, e.g. of padding; PyTorch's own, -100, never counts.
        options: see :class:`~bitwright.tasks.classification.Classes`.
    """

    name, does, order = "language", "the next token at each position, from logits (N, T, V): perplexity", 30
    measures, further = (AGREEMENT, KL, LOSS), (PERPLEXITY,)
    primary, bound = "perplexity", ""

    def __init__(self, *data: Any, shifted: bool = True, ignore: int | None = None, **options: Any) -> None:
        super().__init__(*data, **options)
        self.shifted, self.ignore = shifted, whole("ignore", ignore)

    def _chosen(self, outputs: Named, targets: Any) -> list[tuple[str, Tensor, Any]]:
        if self.output is None:  # what such networks return beside their logits, e.g. keys and values, is not compared
            outputs = dict(list(outputs.items())[:1])
        return super()._chosen(outputs, targets)

    def head(self, logits: Tensor, targets: Any) -> Head:
        """Logits (N, T, V) with tokens (N, T)."""
        if logits.dim() != 3 or logits.shape[2] < 2:
            raise InvalidInput(
                f"the task '{self.name}' needs logits of shape (batch, tokens, vocabulary), got {tuple(logits.shape)}; "
                "name their output (output=), or wrap the model"
            )
        if not self.shifted and isinstance(targets, Tensor):
            if targets.shape[1:] != logits.shape[1:2]:
                wanted = tuple(logits.shape[:2])
                raise InvalidData(f"targets must be tokens of shape {wanted}, got {tuple(targets.shape)}")
            logits, targets = logits[:, :-1], targets[:, 1:]
        logits = logits.movedim(-1, 1)
        counted = counting(targets, self.ignore)
        check_classes(logits, targets, counted)
        return Head(logits, targets, counted)

    def own(self, answer: Answer) -> Values:
        """Losses, and what perplexity is made of: the number of tokens that count."""
        values = super().own(answer)
        for head in answer.read.values():
            if head.targets is not None:
                every = head.targets if head.counted is None else head.counted
                counts = every.new_full((len(every),), every[0].numel()) if head.counted is None else every.sum(1)
                values["tokens"] = counts.double()
        return values

    def figures(self, evidence: Evidence, draws: Draws) -> dict[str, Figure]:
        """Perplexity before the others."""
        found = super().figures(evidence, draws)
        if "tokens" not in evidence.ours or self.loss is not None:
            return found
        tokens = evidence.ours["tokens"]
        ours, floats = (_perplexity(part["loss"] * tokens, tokens) for part in (evidence.ours, evidence.floats))
        return {"perplexity": draws.figure_of(PERPLEXITY, ours, floats, len(tokens)), **found}


def _perplexity(losses: Array, tokens: Array) -> Statistic:
    """exp(sum of losses / number of tokens) of any samples."""

    def statistic(index: npt.NDArray[np.int64]) -> Array:
        return np.asarray(np.exp(losses[index].sum(1) / tokens[index].sum(1)))

    return statistic
