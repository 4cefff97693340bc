"""Step 7 of the flow: single quantizers, worst first."""

from __future__ import annotations

from dataclasses import replace

from bitwright.debug.case import Case
from bitwright.debug.mending import Mending, fits
from bitwright.debug.state import IMPROVEMENT, MOST_FIXES, NEGLIGIBLE, State, better, measurement
from bitwright.values.findings import Step
from bitwright.values.recipe import Action


def fix_quantizers(case: Case, state: State) -> Step:
    """Step 7: the worst sites one by one: a range of its own, then more bits, as long as it helps.

    What was fitted to the grids (biases, learned rounding) is set aside meanwhile, and fitted again after one, two,
    four and eight sites have changed.
    """
    title = "Can single quantizers be fixed?"
    rule = (
        f"worst first by one-site distance, at most {MOST_FIXES} sites, and none with less than "
        f"{NEGLIGIBLE:.0%} of the sum: first a range of its own, then more bits; each is kept when it "
        f"lowers the {case.distance} by {IMPROVEMENT:.0%} or more"
    )
    analysis = state.sweep or case.swept(state.recipe)
    total = sum(row.distance for row in analysis)
    sites = [row.label for row in analysis.rows[:MOST_FIXES] if row.distance >= NEGLIGIBLE * total]
    fitted = Mending(case, state)
    start = fitted.distance
    fitting = tuple(action for action in state.recipe.actions if fits(action))
    bare = state.recipe.without([action.options["name"] for action in fitting])
    if not fitting:
        for site in sites:
            if _fix(fitted, site, True) and fitted.within():
                break
        return fitted.step(7, title, rule, state, start)
    mending = Mending(case, replace(state, recipe=bare))
    fitted.rows.append(replace(mending.rows[0], label=f"before, without {', '.join(str(a) for a in fitting)}"))
    mending.rows, fixed = fitted.rows, 0
    for i, site in enumerate(sites):
        fixed += _fix(mending, site, False)
        if fixed and (fixed & (fixed - 1) == 0 or i + 1 == len(sites)) and _refitted(fitted, mending, fitting):
            break
    return fitted.step(7, title, rule, state, start)


def _fix(mending: Mending, site: str, judged: bool) -> bool:
    helped = mending.own_range(site)
    if helped and judged and mending.within():
        return True
    bits = mending.case.graph(mending.recipe).policy[site]
    wider = Action("bits", {"site": site, "bits": 8 if (bits or 16) < 8 else 16})
    if bits is not None and bits < 16 and mending.attempt(wider):
        if helped:  # the range was chosen for the narrower grid
            mending.own_range(site)
        return True
    return helped


def _refitted(fitted: Mending, mending: Mending, fitting: tuple[Action, ...]) -> bool:
    """Fit again to the grids as they are now; keep it if it is better, and say whether that is enough."""
    case, recipe = fitted.case, mending.recipe
    for action in fitting:
        recipe = recipe.then(action.kind, **action.options)
    if recipe == fitted.recipe:
        return False
    measured = case.measure(recipe)
    good = better(measured.distance.value, fitted.distance)
    label = f"fitted again after {len(mending.kept)} changes"
    fitted.rows.append(measurement(label, measured, good))
    if good:
        fitted.recipe, fitted.distance, fitted.verdict = recipe, measured.distance.value, None
        fitted.kept = list(mending.kept)
    return good and fitted.within()
