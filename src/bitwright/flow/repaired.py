"""Runs with repairs: a recipe on the bench, given by the user or found as the cheapest that holds the target."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from bitwright.cost import default_costs
from bitwright.debug import Told, apply_recipe, cheapest_recipe, ladder_of
from bitwright.flow.bench import Bench
from bitwright.flow.choose import Choice
from bitwright.flow.meter import meters
from bitwright.flow.steps import Steps
from bitwright.repair import RepairReport
from bitwright.store import content_key
from bitwright.values import FLOAT, Candidate
from bitwright.values.recipe import Action, Recipe


def with_recipe(bench: Bench, recipe: Recipe, steps: Steps, told: Told | None = None) -> Bench:
    """The same bench with a graph that the recipe's repairs and ranges were applied to; measured under its own keys.

    Args:
        bench: the plain one.
        recipe: what is applied to a copy of its graph.
        steps: told how far it is.
        told: called with each action when it is done, and what the repair reports.

    Raises:
        PolicyMismatch: the recipe was made for another graph.
        InvalidInput: a repair that refuses.
    """
    done = 0
    with steps.step("apply the recipe", len(recipe.actions) or 1) as tell:

        def one(action: Action, report: RepairReport | None) -> None:
            nonlocal done
            done += 1
            tell(done)
            if told is not None:
                told(action, report)

        graph = bench.graph.copy()
        apply_recipe(graph, recipe, bench.drawn.calibration, one).apply(FLOAT)
    identity = content_key(bench=bench.identity, recipe=recipe.to_dict())
    holdout, evaluation = meters(graph, bench.drawn, bench.data, bench.settings, bench.store, identity)
    return replace(bench, graph=graph, identity=identity, holdout=holdout, evaluation=evaluation)


def given(bench: Bench, recipe: Recipe, predicted: float | None) -> Choice:
    """The choice of a user who brings a recipe; ``bench`` has it applied."""
    policy = recipe.policy
    costs = {name: model.of(policy, bench.graph.sites) for name, model in default_costs().items()}
    candidate = Candidate(policy, predicted or 0.0, costs, verdict=bench.holdout(policy))
    actions = "; ".join(str(action) for action in recipe.actions) or "no repairs"
    return Choice(candidate, f"Taken from the recipe: {actions}.")


def cheapest_repaired(
    bench: Bench, front: Iterable[Candidate], plain: Choice, steps: Steps
) -> tuple[Choice, Recipe | None]:
    """The cheapest policy of a front that holds the target with repairs; the plain choice where none is cheaper.

    Args:
        bench: the plain one.
        front: measured candidates.
        plain: what was chosen without repairs.
        steps: told how far it is.

    Returns:
        The choice, and its recipe: None where repairs save nothing.
    """
    settings = bench.settings
    ordered = sorted(front, key=lambda c: c.costs[settings.cost])
    limit = plain.candidate.costs[settings.cost]
    candidates = [c for c in ordered if c.costs[settings.cost] <= limit]
    with steps.step("try repairs") as tell:
        found = cheapest_recipe(
            bench.graph,
            [c.policy for c in candidates],
            bench.drawn.calibration,
            bench.drawn.holdout,
            settings.drop,
            ranges=settings.ranges,
            ladder=ladder_of(settings.repairs),
            loss=settings.loss,
            remember=_remembered(bench),
            progress=tell,
        )
    if not found.holds:
        return replace(plain, reason=f"{plain.reason} {found.reason}"), None
    if not found.recipe.actions:
        return replace(plain, reason=f"{plain.reason} Repairs make no cheaper one hold."), None
    chosen = next(c for c in candidates if c.policy == found.recipe.target)
    return Choice(replace(chosen, verdict=found.verdict), found.reason), found.recipe


def _remembered(bench: Bench) -> Callable[[str, Callable[[], dict[str, Any]]], dict[str, Any]]:
    def remember(key: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        return bench.store.get_or_compute(content_key(step=key, bench=bench.identity), "verdict", compute)

    return remember
