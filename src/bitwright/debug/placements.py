"""Other placements of the sites of a network, measured beside the one that it has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bitwright.graph.pt2e import PLACEMENTS, PlacementKind, placement_kind
from bitwright.session import Session
from bitwright.values import FLOAT, Policy, Sites, Verdict
from bitwright.values.recipe import Recipe

MOSTLY_LINEAR = 0.5
"""Share of the multiply-accumulates in linear layers on several rows a sample, as in transformers, from which on other
placements are measured."""


@dataclass(frozen=True)
class Placed:
    """A placement, perhaps after what it does first, as it was measured."""

    session: Session
    verdict: Verdict

    def __str__(self) -> str:
        done = " and ".join(str(action) for action in self.session.recipe.actions)
        return f"{self.session.settings.quantizer}{f' with {done}' if done else ''}"


def mostly_linear(sites: Sites) -> bool:
    """Whether a network is made of linear layers on several rows a sample."""
    rows = [op for op in sites.operations if op.kind == "linear" and op.left and len(sites[op.left].shape) > 2]
    return sum(op.macs for op in rows) >= MOSTLY_LINEAR * max(sum(op.macs for op in sites.operations), 1)


def measured(session: Session, kind: PlacementKind, weights: int, activations: int, on: str) -> list[Placed]:
    """The placement of a plain session as it is, and with each way of what it does first."""
    policy = Policy.uniform(session.sites, weights, activations)
    found = [Placed(session, session.measure(policy, on))]
    for actions in kind.first:
        other = session.under(Recipe(FLOAT, session.recipe.ranges, actions))
        found.append(Placed(other, other.measure(policy, on)))
    return found


def best_of_each(session: Session, model: Any, weights: int, activations: int, on: str) -> list[Placed]:
    """The placements made for such networks, each the way that brings it nearest to float."""
    found = []
    for name, kind in PLACEMENTS.items():
        if kind.first and kind is not placement_kind(session.settings.quantizer):
            each = measured(session.placed_by(name, model), kind, weights, activations, on)
            found.append(min(each, key=lambda placed: placed.verdict.distance.value))
    return found
