"""Embedding: vectors that are compared by their cosine. Needs no targets: float is what counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bitwright.graph.outputs import flatten
from bitwright.tasks.base import TASKS, Answer, Evidence, Task, Values, whole
from bitwright.tasks.intervals import Array, Draws
from bitwright.tasks.outputs import Named
from bitwright.values import Figure, Interval, Measure

COSINE = Measure("cosine", "Cosine to float")
DISTANCE = Measure("distance", "Cosine distance", larger=False)
ORDER = Measure("order", "Rank correlation of similarities")
NEIGHBOURS = Measure("neighbours", "Neighbours kept", "share")
MOST = 2048
"""Samples whose similarities to one another are looked at."""


@TASKS.register
class Embedding(Task):
    """Vectors (N, D): what is kept of their directions, of the order of their similarities, and of their neighbours.

    The cosine of each vector with float's decides. Among the first 2,048 samples, the rank correlation (Spearman's) is
    that of each sample's similarities to all others with those in float, and its neighbours kept are the share of the
    nearest ones in float that are among the nearest still; both are averages over the samples.

    Args:
        neighbours: how many of the nearest others count, at most half of them.
        options: see :class:`~bitwright.tasks.base.Task`.
    """

    name, does, order = "embedding", "vectors (N, D), compared by their cosine; needs no targets", 50
    measures, further = (COSINE, DISTANCE), (ORDER, NEIGHBOURS)
    primary, distance = "cosine", "distance"
    needs_targets = False
    compares = True
    harm = "squared change of the normalized vectors"

    def __init__(self, *data: Any, neighbours: int = 10, **options: Any) -> None:
        super().__init__(*data, **options)
        self.neighbours = whole("neighbours", neighbours, least=1)

    def read(self, outputs: Named, targets: Any) -> list[Tensor]:
        """Vectors of length 1, float64."""
        return [unit(value.double()) for value in outputs.values() if value.is_floating_point()]

    def own(self, answer: Answer) -> Values:
        """Nothing: without float there is nothing to say."""
        return {}

    def details(self, answer: Answer) -> dict[str, Any]:
        """The vectors themselves, concatenated over the outputs."""
        return {"vector": torch.cat(answer.read, 1).float()}

    def against(self, answer: Answer, expected: Answer) -> Values:
        """Cosines, averaged over the outputs, and what they lack of 1, summed over them."""
        pairs = zip(answer.read, expected.read, strict=True)
        # From the difference: 1 - cosine loses all digits where the two are nearly the same.
        apart = torch.stack([(one - other).square().sum(1) / 2 for one, other in pairs])
        return {"cosine": 1 - apart.mean(0), "distance": apart.sum(0)}

    def score(self, outputs: Any, targets: Any) -> Tensor:
        """(N,) projections of the normalized vectors on random signs: their gradients' squares are, on average, those
        of all entries together (Hutchinson 1990).
        """
        return projected([unit(value) for value in flatten(outputs).values() if value.is_floating_point()])

    def figures(self, evidence: Evidence, draws: Draws) -> dict[str, Figure]:
        """Cosine with its change against float's 1; order and neighbours of the similarities."""
        found = super().figures(evidence, draws)
        if "cosine" not in found:
            return found
        value = found["cosine"].value
        exact = Interval(1.0, 1.0, 1.0, draws.level, "none")
        found["cosine"] = Figure(COSINE, value, exact, value.mapped(lambda cosine: cosine - 1))
        ours, floats = evidence.ours.get("vector"), evidence.floats.get("vector")
        if ours is not None and floats is not None and len(ours) > 3:
            order, kept = similar(ours[:MOST], floats[:MOST], self.neighbours)
            found |= {"order": draws.figure(ORDER, order), "neighbours": draws.figure(NEIGHBOURS, kept)}
        return found


def unit(vectors: Tensor) -> Tensor:
    """(N, ...) vectors as (N, D) of length 1."""
    return functional.normalize(vectors.flatten(1), dim=1)


def projected(vectors: list[Tensor]) -> Tensor:
    """(N,) sums of the projections of (N, D) vectors on signs drawn at random, the same ones each time."""
    generator = torch.Generator().manual_seed(0)
    total = vectors[0].new_zeros(len(vectors[0]))
    for value in vectors:
        signs = torch.randint(2, value.shape, generator=generator).to(value) * 2 - 1
        total = total + (signs * value).sum(1)
    return total


def similar(ours: Array, floats: Array, neighbours: int) -> tuple[Array, Array]:
    """Rank correlations of each sample's similarities to the others with float's, and shares of neighbours kept.

    Args:
        ours: (N, D) vectors of length 1.
        floats: (N, D) of the float model.
        neighbours: how many count, at most half of the others.

    Returns:
        (N,) each.
    """
    from scipy.stats import rankdata

    count = len(ours)
    nearest = max(1, min(neighbours, (count - 1) // 2))
    others = ~np.eye(count, dtype=bool)
    one, other = (
        (v.astype(np.float64) @ v.astype(np.float64).T)[others].reshape(count, count - 1) for v in (ours, floats)
    )
    x, y = (rankdata(v, axis=1) - count / 2 for v in (one, other))
    spread = np.sqrt((x * x).sum(1) * (y * y).sum(1))
    order = np.where(spread > 0, (x * y).sum(1) / np.where(spread > 0, spread, 1.0), 1.0)
    first, second = (np.argsort(-v, axis=1, kind="stable")[:, :nearest] for v in (one, other))
    kept = np.array([len(np.intersect1d(a, b)) for a, b in zip(first, second, strict=True)]) / nearest
    return order, kept
