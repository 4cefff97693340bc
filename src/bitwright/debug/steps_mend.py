"""Steps 3 and 4 of the flow: mending a whole side."""

from __future__ import annotations

from dataclasses import replace

from bitwright.debug.bench import Bench
from bitwright.debug.mending import Mending
from bitwright.debug.state import CONCENTRATED, IMPROVEMENT, State
from bitwright.debug.steps_whole import blamed, by_side
from bitwright.debug.words import nats, outliers_of, share
from bitwright.sensitivity.sweep import sweep
from bitwright.values.findings import Measurement, Step
from bitwright.values.recipe import Action, Recipe

FITTED = ("bias", "gptq", "adaround")
WEIGHT_REPAIRS = ("cle", "granularity", *FITTED)
ACTIVATION_REPAIRS = ("smooth", "clip")


def mend_weights(bench: Bench, state: State) -> Step:
    """Step 3: cross-layer equalization, scales per channel, bias correction, GPTQ, AdaRound, in this order.

    The first two rescale or regrid the weights, the others fit them to the grids that are then there, each in the place
    of the one before it.
    """
    title = "Weights at fault: what mends them?"
    rule = f"a change is kept when it lowers the KL to float of the whole network by {IMPROVEMENT:.0%} or more"
    if "weight" not in state.at_fault:
        return _skipped(3, title, rule, "Weights are not at fault.", state)
    mending = Mending(bench, state)
    start = mending.kl
    for name in WEIGHT_REPAIRS:
        if name not in bench.repairs:
            continue
        coarse = any(s.scheme.granularity == "tensor" for s in bench.graph(mending.recipe).sites.weights)
        if name == "granularity" and not coarse:
            continue
        if mending.attempt(Action("repair", {"name": name, **bench.repairs[name]})) and mending.holds():
            break
    return mending.step(3, title, rule, state, start)


def mend_activations(bench: Bench, state: State) -> Step:
    """Step 4: the range of the one site that does the harm, or other range settings for all."""
    title = "Activations at fault: what mends them?"
    rule = (
        f"one site with {CONCENTRATED:.0%} or more of the activations' one-site KL is mended alone; where that is not "
        "enough, or no site stands out, all activations are mended; a change is kept when it lowers the KL to float "
        f"by {IMPROVEMENT:.0%} or more"
    )
    sides: list[Measurement] = []
    if state.recipe.actions:  # what was mended since step 2 may have left the other side with most of the harm
        kls, sides = by_side(bench, state.recipe)
        state = replace(state, at_fault=blamed(kls))
    if "activation" not in state.at_fault:
        return replace(_skipped(4, title, rule, "Activations are not at fault.", state), measured=tuple(sides))
    mending = Mending(bench, state)
    mending.rows += sides
    start = mending.kl
    graph = bench.graph(mending.recipe)
    names = [s.name for s in graph.sites.activations if graph.policy[s.name] is not None]
    analysis = sweep(graph, bench.calibration, graph.policy, sites=names, loss=bench.task.loss)
    worst, total = analysis.rows[0], sum(row.kl for row in analysis)
    alone = worst.kl >= CONCENTRATED * total > 0
    said = f"The worst activation is {worst.label}: {nats(worst.kl)} alone, {share(worst.kl, total)} of the sum of all."
    said += outliers_of(graph, worst.label)
    if alone:
        mending.own_range(worst.label)
    only = bool(mending.kept)
    if only and not mending.holds():
        only = not mending.instead(state.recipe, _rescaling(bench, state.recipe))
    # What is set for all sites would undo the range of the one.
    rest = _after_one(bench, mending.recipe) if only else _for_all(bench, mending.recipe)
    if not mending.kept or not mending.holds():
        for actions in rest:
            if mending.attempt_one_of(actions) and mending.holds():
                mending.drop_needless()
                break
    step = mending.step(4, title, rule, state, start)
    return replace(step, conclusion=f"{said} {step.conclusion}", sweep=analysis)


def _for_all(bench: Bench, recipe: Recipe) -> list[list[Action]]:
    """What can be done to all activations: other ranges, moving or cutting outliers, fitting to what is left.

    Each entry holds alternatives, of which the best is kept.
    """
    methods = (("mse", None), ("percentile", 99.99), ("percentile", 99.9), ("minmax", None))
    ranges = []
    for method, percentile in methods:
        if method == recipe.ranges and not any(action.kind == "ranges" for action in recipe.actions):
            continue
        options = {"kind": "activation", "method": method, **({"percentile": percentile} if percentile else {})}
        ranges.append(Action("ranges", options))
    found = [ranges, *([action] for action in _rescaling(bench, recipe))]
    if "clip" in bench.repairs and not recipe.repaired("clip"):
        found.append([Action("repair", {"name": "clip", **bench.repairs["clip"]})])
    return found + _fitting(bench, recipe)


def _rescaling(bench: Bench, recipe: Recipe) -> list[Action]:
    """Repairs that move outliers of activations into weights, which leaves the float function what it is."""
    found = []
    if "cle" in bench.repairs and not recipe.repaired("cle"):
        found.append(Action("repair", {"name": "cle", "activations": True, **bench.repairs["cle"]}))
    if "smooth" in bench.repairs and not recipe.repaired("smooth"):
        found.append(Action("repair", {"name": "smooth", **bench.repairs["smooth"]}))
    return found


def _after_one(bench: Bench, recipe: Recipe) -> list[list[Action]]:
    """What can be done when the one activation that did the harm has its range: weights may be at fault now."""
    coarse = any(site.scheme.granularity == "tensor" for site in bench.graph(recipe).sites.weights)
    found = []
    if coarse and "granularity" in bench.repairs and "weight" in blamed(by_side(bench, recipe)[0]):
        found.append([Action("repair", {"name": "granularity", **bench.repairs["granularity"]})])
    return found + _fitting(bench, recipe)


def _fitting(bench: Bench, recipe: Recipe) -> list[list[Action]]:
    """Repairs that fit weights and biases to the quantized inputs, which makes good part of what these lose."""
    names = [name for name in FITTED if name in bench.repairs and not recipe.repaired(name)]
    return [[Action("repair", {"name": name, **bench.repairs[name]})] for name in names]


def _skipped(number: int, title: str, rule: str, why: str, state: State) -> Step:
    return Step(number, title, "skipped", (), rule, why, "", state.recipe, None, None, state.at_fault)
