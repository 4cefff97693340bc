"""Runs with repairs: a recipe on the bench, given by the user or found as the cheapest that holds the target."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from bitwright.cost import costs_for
from bitwright.debug import apply_recipe, cheapest_recipe, keep_fitted, ladder_of
from bitwright.flow.bench import Bench
from bitwright.flow.choose import Choice
from bitwright.flow.meter import meters
from bitwright.flow.steps import Steps
from bitwright.graph import Graph
from bitwright.repair import functions_of
from bitwright.store import content_key
from bitwright.values import FLOAT, Candidate
from bitwright.values.fitted import FITTED_VERSION, Fitted
from bitwright.values.recipe import Recipe


def with_recipe(bench: Bench, recipe: Recipe, steps: Steps, watch: bool = False) -> Bench:
    """The same bench with a graph that the recipe's repairs and ranges were applied to; measured under its own keys.

    What was fitted comes with the recipe or from the store; else it is fitted now and kept there.

    Args:
        bench: the plain one.
        recipe: what is applied to a copy of its graph.
        steps: told how far it is.
        watch: watch ranges for other widths and further repairs, too; what is fitted now has them in any case.

    Raises:
        PolicyMismatch: the recipe was made for another graph.
        InvalidInput: a repair that refuses.
    """
    recipe = recalled(bench, recipe)
    graph = bench.graph.copy()
    with steps.step("apply the recipe", len(recipe.actions) or 1) as tell:
        data = bench.drawn.calibration if watch or recipe.fitted is None else None
        done = itertools.count(1)
        apply_recipe(graph, recipe, data, lambda action, report: tell(next(done)))
    if recipe.fitted is None:
        recipe = remembered(bench, keep_fitted(graph, recipe))
    return measuring(bench, graph, recipe)


def measuring(bench: Bench, graph: Graph, recipe: Recipe) -> Bench:
    """The bench with a graph that a recipe was applied to; the recipe has what was fitted."""
    assert recipe.fitted is not None
    graph.apply(FLOAT)
    identity = content_key(bench=bench.identity, recipe=recipe.to_dict(), fitted=recipe.fitted.checksum)
    holdout, evaluation = meters(graph, bench.drawn, bench.data, bench.task, bench.settings, bench.store, identity)
    return replace(bench, graph=graph, identity=identity, holdout=holdout, evaluation=evaluation, recipe=recipe)


def recalled(bench: Bench, recipe: Recipe) -> Recipe:
    """The recipe with what was fitted, if it has it or the store does."""
    if recipe.fitted is not None:
        return recipe
    found = bench.store.get(_place(bench, recipe))
    return recipe if found is None else recipe.with_fitted(Fitted.from_dict(found))


def remembered(bench: Bench, recipe: Recipe) -> Recipe:
    """The recipe itself; what was fitted on this bench is put into the store."""
    if recipe.fitted is not None:
        bench.store.put(_place(bench, recipe), "fitted", recipe.fitted.to_dict())
    return recipe


def _place(bench: Bench, recipe: Recipe) -> str:
    functions = functions_of(recipe.repairs)
    return content_key(fitted=FITTED_VERSION, bench=bench.identity, recipe=recipe.digest, functions=functions)


def given(bench: Bench, recipe: Recipe, predicted: float | None) -> Choice:
    """The choice of a user who brings a recipe; ``bench`` has it applied."""
    policy = recipe.policy
    costs = {name: model.of(policy, bench.graph.sites) for name, model in costs_for(bench.settings.runtime).items()}
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
            task=bench.task,
            remember=_remembered(bench),
            progress=tell,
        )
    if not found.holds:
        return replace(plain, reason=f"{plain.reason} {found.reason}"), None
    if not found.recipe.actions:
        return replace(plain, reason=f"{plain.reason} Repairs make no cheaper one hold."), None
    chosen = next(c for c in candidates if c.policy == found.recipe.target)
    return Choice(replace(chosen, verdict=found.verdict), found.reason), remembered(bench, found.recipe)


def _remembered(bench: Bench) -> Callable[[str, Callable[[], dict[str, Any]]], dict[str, Any]]:
    def remember(key: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        return bench.store.get_or_compute(content_key(step=key, bench=bench.identity), "verdict", compute)

    return remember
