"""Runs with repairs: a recipe given by the user, or found as the cheapest that holds the target."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from bitwright.cost import costs_for, costs_of
from bitwright.debug import cheapest_recipe, ladder_of
from bitwright.flow.choose import Choice
from bitwright.session import Session
from bitwright.values import Candidate
from bitwright.values.recipe import Recipe


def given(session: Session, recipe: Recipe, predicted: float | None) -> Choice:
    """The choice of a user who brings a recipe; the session is under it."""
    policy = recipe.policy
    costs = costs_of(policy, session.sites, costs_for(session.settings.runtime))
    candidate = Candidate(policy, predicted or 0.0, costs, verdict=session.measure(policy))
    actions = "; ".join(str(action) for action in recipe.actions) or "no repairs"
    return Choice(candidate, f"Taken from the recipe: {actions}.")


def cheapest_repaired(session: Session, front: Iterable[Candidate], plain: Choice) -> tuple[Choice, Recipe | None]:
    """The cheapest policy of a front that holds the target with repairs; the plain choice where none is cheaper.

    Returns:
        The choice, and its recipe: None where repairs save nothing.
    """
    settings = session.settings
    ordered = sorted(front, key=lambda c: c.costs[settings.cost])
    limit = plain.candidate.costs[settings.cost]
    candidates = [c for c in ordered if c.costs[settings.cost] <= limit]
    with session.steps.step("try repairs") as tell:
        policies = [c.policy for c in candidates]
        found = cheapest_recipe(session, policies, settings.drop, ladder=ladder_of(settings.repairs), progress=tell)
    if not found.holds:
        return replace(plain, reason=f"{plain.reason} {found.reason}"), None
    if not found.recipe.actions:
        return replace(plain, reason=f"{plain.reason} Even with repairs, no cheaper policy holds the target."), None
    chosen = next(c for c in candidates if c.policy == found.recipe.target)
    return Choice(replace(chosen, verdict=found.verdict), found.reason), found.recipe
