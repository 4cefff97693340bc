"""What a search is told, and what it found."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from bitwright.errors import InvalidInput
from bitwright.gmpq.capacity import SHAPES
from bitwright.values import Policy
from bitwright.values.json import Value


@dataclass(frozen=True)
class Imitation:
    """How the attribution of the mixture is held against float's.

    Attributes:
        weight: of the attribution beside the task's loss; 0: the task's loss alone decides.
        top: share of the places that count, those where float's attribution is largest.
        shape: how the power to which float's attribution is raised grows with the lack of capacity: ``"linear"``,
            ``"concave"`` or ``"convex"``; ``"none"``: a power of 1.
        spread: hierarchical partitioning (R-GMPQ): values of one group differ by at most this share of the map's
            largest value, as a standard deviation; 0: every place for itself.
        hardness: whether a sample with more loss than others gets a larger power (R-GMPQ).
    """

    weight: float = 40.0
    top: float = 0.5
    shape: str = "linear"
    spread: float = 0.0
    hardness: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.weight < math.inf:
            raise InvalidInput(f"weight must be 0 or more, got {self.weight!r}")
        if not 0 < self.top <= 1:
            raise InvalidInput(f"top must be above 0 and at most 1, got {self.top!r}")
        if self.shape not in (*SHAPES, "none"):
            raise InvalidInput(f"shape must be one of {', '.join((*SHAPES, 'none'))}, got {self.shape!r}")
        if not 0 <= self.spread < 1:
            raise InvalidInput(f"spread must be at least 0 and below 1, got {self.spread!r}")


METHODS: Mapping[str, Imitation] = {
    "loss": Imitation(weight=0.0),
    "gmpq": Imitation(),
    "r-gmpq": Imitation(spread=0.1, hardness=True),
}
"""The named methods; an :class:`Imitation` of one's own is another."""


@dataclass(frozen=True)
class Round(Value):
    """One epoch of the search.

    Attributes:
        loss: the task's, the mean over the samples.
        attribution: distance of the attributions, likewise; None where they are not compared.
        cost: expected cost of the mixtures at the end of the epoch, as a share of the budget (of the tightest one).
        weights: expected bits of the weight sites, their mean.
        activations: those of the activation sites.
        decided: mean over the sites of the largest share: 1 where every site has decided for a width.
        power: to which float's attribution was raised, the mean over the samples.
        distance: to float on held-out data, of the policy that would be taken after this epoch, with the float
            network's weights; None where it was not measured.
        primary: the task's primary figure there, likewise.
    """

    loss: float
    attribution: float | None
    cost: float
    weights: float
    activations: float
    decided: float
    power: float
    distance: float | None = None
    primary: float | None = None


@dataclass(frozen=True)
class Shown(Value):
    """One sample's attributions, each divided by its largest value.

    Attributes:
        floats: of the float network, row by row.
        mixed: of the mixture at the end of the search.
        image: the input itself, channel by channel, from 0 to 1; empty where it is no image.
    """

    floats: tuple[tuple[float, ...], ...]
    mixed: tuple[tuple[float, ...], ...]
    image: tuple[tuple[tuple[float, ...], ...], ...] = ()


@dataclass(frozen=True)
class Searched(Value, kind="searched policy"):
    """A policy with the search that found it.

    Attributes:
        policy: the policy.
        budgets: that it keeps, in words.
        method: how it was searched.
        widths: that were mixed.
        shares: site -> the share of each width at the end.
        rounds: the epochs.
        stage: where attributions were compared, e.g. ``layer3.2.relu``; empty where they were not.
        samples: of the data that was searched on.
        maps: attributions of a few samples.
        entropies: mean entropies of the attribution, of float and of the mixture, in nats; None where not compared.
        seconds: wall time.
        notes: what to keep in mind.
    """

    policy: Policy
    budgets: str
    method: str
    widths: tuple[int, ...]
    shares: dict[str, tuple[float, ...]]
    rounds: tuple[Round, ...]
    stage: str
    samples: int
    maps: tuple[Shown, ...]
    entropies: tuple[float, float] | None
    seconds: float
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        last = self.rounds[-1]
        return (
            f"{self.policy.name}: {len(self.rounds)} epochs of {self.samples} samples, expected bits "
            f"W{last.weights:.2f} A{last.activations:.2f}, {last.decided:.0%} decided ({self.seconds:.0f} s)"
        )
