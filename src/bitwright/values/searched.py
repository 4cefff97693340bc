"""A search by gradients as a value: its course, the policy that it found, and attributions to look at."""

from __future__ import annotations

from dataclasses import dataclass

from bitwright.values.json import Value
from bitwright.values.policy import Policy


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


@dataclass(frozen=True)
class Finding(Value):
    """One published fact, measured.

    Attributes:
        name: of the fact.
        claim: what was published.
        published: the published figure, where there is one.
        figure: ours; None where it was not measured.
        low, high: its 95 % interval; None where there is none, as of one seed.
        verdict: ``"holds"``, ``"does not hold"``, ``"undecided"`` or ``"not measured"``.
        note: what the figure is, or why there is none.
    """

    name: str
    claim: str
    published: str
    figure: float | None
    low: float | None
    high: float | None
    verdict: str
    note: str


@dataclass(frozen=True)
class Facts(Value, kind="facts of gmpq"):
    """The published facts about GMPQ and R-GMPQ on a network and its data.

    Attributes:
        findings: one for each fact.
        budget: of the searches.
        samples: of the data that they ran on.
        epochs: of each search.
        seeds: how many searches of each kind.
    """

    findings: tuple[Finding, ...]
    budget: str
    samples: int
    epochs: int
    seeds: int
