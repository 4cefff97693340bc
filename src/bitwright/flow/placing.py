"""The placement of a run: the one that was asked for or, among those that suit the network, the one that was best."""

from __future__ import annotations

from typing import Any

from bitwright.cost import costs_for
from bitwright.data import DataSets
from bitwright.debug.placements import Placed, measured, mostly_linear
from bitwright.debug.state import IMPROVEMENT, better
from bitwright.graph.pt2e import PLACEMENTS, placement_kind
from bitwright.report.format import percent
from bitwright.session import Session, Steps
from bitwright.settings import Settings
from bitwright.store import RunStore
from bitwright.values import FLOAT, Policy
from bitwright.values.recipe import Recipe


def placed(
    model: Any, data: DataSets, settings: Settings, store: RunStore, steps: Steps, recipe: Recipe | None = None
) -> tuple[Session, tuple[str, ...]]:
    """Open a session with the placement of the settings, or one beside it that is better.

    Placements are compared by the distance to float on held-out calibration samples, at 8 bits; another one than that
    of the settings is taken only where it is lower by a twentieth.

    Returns:
        The session, under what its placement does first if that helps, and sentences on the choice.
    """
    session = Session.open(model, data, settings, store, steps)
    settings = session.settings
    kind = placement_kind(settings.quantizer)
    if kind is None:
        return session, ()
    others = kind.beside if mostly_linear(session.sites) else ()
    if recipe is not None:
        opened = (session, *(session.placed_by(name, model) for name in others))
        fits = (one for one in opened if one.sites.graph_hash == recipe.target.graph_hash)
        return next(fits, session), ()
    if not others and not kind.first:
        return session, ()
    weights, activations = kind.judged_at
    tried = measured(session, kind, weights, activations, "holdout")
    for name in others:
        tried += measured(session.placed_by(name, model), PLACEMENTS[name], weights, activations, "holdout")
    best = tried[0]
    for one in tried[1:]:
        if better(one.verdict.distance.value, best.verdict.distance.value):
            best = one
    measure = best.verdict.figures[best.verdict.distance_name].measure
    figures = "; ".join(
        f"{one}: {one.verdict.distance.value:.3g} at {_share_of_bops(one, weights, activations)}" for one in tried
    )
    said = f"Sites are placed as {best}: compared by {measure.words} at W{weights}A{activations} on held-out "
    said += f"calibration samples ({figures}), where another one is taken if it is lower by {IMPROVEMENT:.0%} or more."
    if best.session.settings.quantizer != settings.quantizer:
        said += (
            " A budget such as bops=W4A4 is what uniform bits cost in this placement; what it leaves in float counts."
        )
        said += f" Other commands place them so with --quantizer {best.session.settings.quantizer}."
    return best.session, (said,)


def _share_of_bops(one: Placed, weights: int, activations: int) -> str:
    """``"17.3% of the bit operations"``: what these uniform widths cost in a placement, as a share of float."""
    bops, sites = costs_for()["bops"], one.session.sites
    share = bops.of(Policy.uniform(sites, weights, activations), sites) / bops.of(FLOAT, sites)
    return f"{percent(share)} of the bit operations"
