"""Steps 3 and 4 of the flow: mending a whole side."""

from __future__ import annotations

from dataclasses import replace

from bitwright.debug.case import Case
from bitwright.debug.mending import Mending, action_of, range_actions, repairs_left
from bitwright.debug.state import CONCENTRATED, IMPROVEMENT, State
from bitwright.debug.steps_whole import blamed, by_side
from bitwright.debug.words import outliers_of, share, told
from bitwright.repair import flow_repairs
from bitwright.values.findings import Measurement, Step
from bitwright.values.recipe import Action, Recipe


def mend_weights(case: Case, state: State) -> Step:
    """Step 3: the repairs that mend weights, one after the other.

    The first ones rescale or regrid the weights, the others fit them to the grids that are then there, each in the
    place of the one before it.
    """
    title = "Weights at fault: what mends them?"
    rule = f"a change is kept when it lowers the {case.distance} of the whole network by {IMPROVEMENT:.0%} or more"
    if "weight" not in state.at_fault:
        return _skipped(3, title, rule, "Weights are not at fault.", state)
    mending = Mending(case, state)
    start = mending.distance
    for repair in flow_repairs("weights"):
        if repair.name not in case.repairs or not repair.worthwhile(case.graph(mending.recipe)):
            continue
        if mending.attempt(action_of(case, repair, "weights")) and mending.holds():
            break
    return mending.step(3, title, rule, state, start)


def mend_activations(case: Case, state: State) -> Step:
    """Step 4: the range of the one site that does the harm, or other range settings for all."""
    title = "Activations at fault: what mends them?"
    rule = (
        f"one site with {CONCENTRATED:.0%} or more of the activations' one-site distance is mended alone; where that "
        "is not enough, or no site stands out, all activations are mended; a change is kept when it lowers the "
        f"{case.distance} by {IMPROVEMENT:.0%} or more"
    )
    sides: list[Measurement] = []
    if state.recipe.actions:  # what was mended since step 2 may have left the other side with most of the harm
        sums, sides = by_side(case, state.recipe)
        state = replace(state, at_fault=blamed(sums))
    if "activation" not in state.at_fault:
        return replace(_skipped(4, title, rule, "Activations are not at fault.", state), measured=tuple(sides))
    mending = Mending(case, state)
    mending.rows += sides
    start = mending.distance
    graph = case.graph(mending.recipe)
    names = [s.name for s in graph.sites.activations if graph.policy[s.name] is not None]
    analysis = case.swept(mending.recipe, names)
    worst, total = analysis.rows[0], sum(row.distance for row in analysis)
    alone = worst.distance >= CONCENTRATED * total > 0
    said = f"The worst activation is {worst.label}: {told(case, worst.distance)} alone, "
    said += f"{share(worst.distance, total)} of the sum of all."
    said += outliers_of(graph, worst.label)
    if alone:
        mending.own_range(worst.label)
    only = bool(mending.kept)
    if only and not mending.holds():
        only = not mending.instead(state.recipe, _rescaling(case, state.recipe))
    # What is set for all sites would undo the range of the one.
    rest = _after_one(case, mending.recipe) if only else _for_all(case, mending.recipe)
    if not mending.kept or not mending.holds():
        for actions in rest:
            if mending.attempt_one_of(actions) and mending.holds():
                mending.drop_needless()
                break
    step = mending.step(4, title, rule, state, start)
    return replace(step, conclusion=f"{said} {step.conclusion}", sweep=analysis)


def _for_all(case: Case, recipe: Recipe) -> list[list[Action]]:
    """What can be done to all activations: other ranges, moving or cutting outliers, fitting to what is left.

    Each entry holds alternatives, of which the best is kept.
    """
    ranges = range_actions((99.99, 99.9), kind="activation")
    if not any(action.kind == "ranges" for action in recipe.actions):
        ranges = [action for action in ranges if action.options["method"] != recipe.ranges]
    found = [ranges, *([action] for action in _rescaling(case, recipe))]
    others = [repair for repair in repairs_left(case, recipe, "activations") if "scales" not in repair.moves]
    return [*found, *([action_of(case, repair, "activations")] for repair in others), *_fitting(case, recipe)]


def _rescaling(case: Case, recipe: Recipe) -> list[Action]:
    """Repairs that move outliers of activations into weights, which leaves the float function what it is."""
    left = repairs_left(case, recipe, "activations")
    return [action_of(case, repair, "activations") for repair in left if "scales" in repair.moves]


def _after_one(case: Case, recipe: Recipe) -> list[list[Action]]:
    """What can be done when the one activation that did the harm has its range: weights may be at fault now."""
    graph = case.graph(recipe)
    regrid = [r for r in flow_repairs("weights") if r.moves == ("weight grids",) and r.name in case.repairs]
    found = [[action_of(case, repair, "weights")] for repair in regrid if repair.worthwhile(graph)]
    if found and "weight" not in blamed(by_side(case, recipe)[0]):
        found = []
    return found + _fitting(case, recipe)


def _fitting(case: Case, recipe: Recipe) -> list[list[Action]]:
    """Repairs that fit weights and biases to the quantized inputs, which makes up for part of what these lose."""
    return [[action_of(case, repair, "weights")] for repair in repairs_left(case, recipe, "weights") if repair.fits]


def _skipped(number: int, title: str, rule: str, why: str, state: State) -> Step:
    return Step(number, title, "skipped", (), rule, why, "", state.recipe, None, None, state.at_fault)
