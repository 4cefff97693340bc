"""Applying recipes: bits, repairs and ranges onto a graph, one action after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from bitwright.arguments import checked
from bitwright.errors import InvalidInput
from bitwright.graph.calibration import calibrate
from bitwright.graph.graph import Graph
from bitwright.numerics.ranges import Observed
from bitwright.repair.descriptor import repair
from bitwright.repair.fitted import put_fitted, take_fitted
from bitwright.repair.report import RepairReport
from bitwright.tasks import Task
from bitwright.values.recipe import Action, Recipe

Told = Callable[[Action, RepairReport | None], None]
"""Called with each action of a recipe when it is done, and what the repair reports."""


@checked
def apply_recipe(
    graph: Graph,
    recipe: Recipe,
    batches: Any = None,
    told: Told | None = None,
    *,
    calibrated: bool = False,
    task: Task | str | None = None,
) -> Graph:
    """Turn a captured float graph into the quantized network that a recipe describes.

    A recipe that has its fitted values (``recipe.fitted``) is not fitted again: integers, biases and ranges are the
    same to the last bit, and no data is needed.

    Args:
        graph: from :func:`~bitwright.graph.capture`, of the model and with the placement that the recipe was made for.
        recipe: e.g. from :func:`~bitwright.debug.debug`.
        batches: calibration data, the same as the recipe was made with if the result is to be the same. With fitted
            values they only watch the ranges of other widths, for policies and repairs that are to follow.
        told: called with each action when it is done.
        calibrated: the graph has its ranges by the recipe's method already.
        task: what the outputs mean, as in :func:`~bitwright.tasks.evaluate`, for repairs that compare outputs.

    Returns:
        The graph itself, its weights and ranges changed, with ``recipe.policy`` applied.

    Raises:
        PolicyMismatch: the recipe was made for another graph.
        InvalidPolicy: it names sites that the graph does not have.
        InvalidInput: a repair that refuses, or no data for a recipe that has to be fitted.
    """
    recipe.target.check(graph.sites)
    if recipe.fitted is not None:
        put_fitted(graph, recipe.fitted, batches, recipe.ranges)
        for action in recipe.actions:
            if told is not None:
                told(action, None)
        return graph.apply(recipe.policy)
    if batches is None:
        raise InvalidInput("this recipe has no fitted values, so it is fitted when it is applied: pass batches")
    if not calibrated:
        calibrate(graph, batches, ranges=recipe.ranges)
    graph.apply(recipe.target)
    for action in recipe.actions:
        report = apply_action(graph, action, batches, task)
        if told is not None:
            told(action, report)
    return graph


def keep_fitted(graph: Graph, recipe: Recipe) -> Recipe:
    """The recipe with what it came to on the graph that it was applied to, so that :meth:`Recipe.save` keeps it."""
    return recipe.with_fitted(take_fitted(graph, recipe.policy, recipe.digest))


def apply_action(graph: Graph, action: Action, batches: Any, task: Task | str | None = None) -> RepairReport | None:
    """Do what one line of a recipe says, to a calibrated graph with a current policy."""
    try:
        if action.kind == "repair":
            own = {key: value for key, value in action.options.items() if key != "name"}
            return repair(graph, action.options["name"], batches, task=task, **own)
        _HOW[action.kind](graph, action.options)
    except KeyError as error:
        raise InvalidInput(f"the recipe's action '{action.kind}' needs the option {error}") from None
    return None


def _ranges(graph: Graph, options: Mapping[str, Any]) -> None:
    names = [options["site"]] if options.get("site") else [s.name for s in graph.sites]
    for name in names:
        quantizer = graph.quantizers[graph.sites[name].name]
        if options.get("kind") in (None, quantizer.site.kind):
            quantizer.set_ranges(options["method"], options.get("percentile") or 99.99)


def _limits(graph: Graph, options: Mapping[str, Any]) -> None:
    quantizer = graph.quantizers[graph.sites[options["site"]].name]
    seen = quantizer.observed
    if seen is None:
        raise InvalidInput(
            f"limits can be set only at activations that have a range, and site '{options['site']}' is not one"
        )
    low, high = float(options["low"]), float(options["high"])
    quantizer.observe(Observed(low, high, seen.sample.clamp(low, high), seen.count))
    quantizer.set_ranges("minmax")


def _bits(graph: Graph, options: Mapping[str, Any]) -> None:
    policy = graph.policy
    graph.apply(policy.replaced({options["site"]: options["bits"]}, policy.name.removesuffix("+") + "+"))


def _training(graph: Graph, options: Mapping[str, Any]) -> None:
    raise InvalidInput(
        "this recipe was trained, and what was learned is not beside it; keep recipe.json and its .npz file together, "
        "or train again with `bitwright qat`"
    )


_HOW: Mapping[str, Callable[[Graph, Mapping[str, Any]], None]] = MappingProxyType(
    {"ranges": _ranges, "limits": _limits, "bits": _bits, "training": _training}
)
