"""The placement of a run: the one that was asked for or, among those that suit the network, the one that was best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bitwright.data import DataSets
from bitwright.debug.state import IMPROVEMENT, better
from bitwright.graph.pt2e import PLACEMENTS, PlacementKind
from bitwright.session import Session, Steps
from bitwright.settings import Settings
from bitwright.store import RunStore
from bitwright.values import FLOAT, Policy, Sites, Verdict
from bitwright.values.recipe import Recipe

MOSTLY_LINEAR = 0.5
"""Share of the multiply-accumulates in linear layers on several rows a sample, as in transformers, from which on other
placements are measured."""


@dataclass(frozen=True)
class _Tried:
    session: Session
    verdict: Verdict

    def __str__(self) -> str:
        done = " and ".join(str(action) for action in self.session.recipe.actions)
        distance = self.verdict.distance
        return f"{self.session.settings.quantizer}{f' with {done}' if done else ''}: {distance.value:.3g}"


def placed(
    model: Any, data: DataSets, settings: Settings, store: RunStore, steps: Steps, recipe: Recipe | None = None
) -> tuple[Session, tuple[str, ...]]:
    """Open a session with the placement of the settings, or one beside it that is better.

    Placements are compared by the distance to float on held-out calibration samples, at 8 bits; another one than that
    of the settings is taken only where it is lower by a twentieth.

    Args:
        model: in evaluation mode, or an exported program.
        data: calibration and evaluation data.
        settings: of the job.
        store: where everything that is measured is kept.
        steps: told how far it is.
        recipe: that is going to be applied; its graph decides.

    Returns:
        The session, under what its placement does first if that helps, and sentences on the choice.
    """
    session = Session.open(model, data, settings, store, steps)
    kind = PLACEMENTS.get(settings.quantizer) if isinstance(settings.quantizer, str) else None
    if kind is None:
        return session, ()
    others = kind.beside if _mostly_linear(session.sites) else ()
    if recipe is not None:
        opened = (session, *(session.placed_by(name, model) for name in others))
        fits = (one for one in opened if one.sites.graph_hash == recipe.target.graph_hash)
        return next(fits, session), ()
    if not others and not kind.first:
        return session, ()
    tried = _tried(session, kind)
    for name in others:
        tried += _tried(session.placed_by(name, model), PLACEMENTS[name])
    best = tried[0]
    for one in tried[1:]:
        if better(one.verdict.distance.value, best.verdict.distance.value):
            best = one
    measure = best.verdict.figures[best.verdict.distance_name].measure
    figures = "; ".join(str(one) for one in tried)
    bits = "W{}A{}".format(*kind.judged_at)
    said = f"Sites are placed as {best} at {bits}, in {measure.words} on held-out calibration samples ({figures}); one "
    said += f"further down is taken where it is lower by {IMPROVEMENT:.0%}."
    if best.session.settings.quantizer != settings.quantizer:
        said += f" Other commands place them so with --quantizer {best.session.settings.quantizer}."
    return best.session, (said,)


def _mostly_linear(sites: Sites) -> bool:
    rows = [op for op in sites.operations if op.kind == "linear" and op.left and len(sites[op.left].shape) > 2]
    return sum(op.macs for op in rows) >= MOSTLY_LINEAR * max(sum(op.macs for op in sites.operations), 1)


def _tried(session: Session, kind: PlacementKind) -> list[_Tried]:
    """A placement as it is, and with each way of what it does first."""
    policy = Policy.uniform(session.sites, *kind.judged_at)
    found = [_Tried(session, session.measure(policy))]
    for actions in kind.first:
        other = session.under(Recipe(FLOAT, session.recipe.ranges, actions))
        found.append(_Tried(other, other.measure(policy)))
    return found
