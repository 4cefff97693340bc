"""Steps 5 and 6 of the flow: one quantizer at a time, and what the worst tensors look like."""

from __future__ import annotations

import math

from bitwright.debug.case import Case
from bitwright.debug.state import LOOK_AT, State
from bitwright.debug.tensors import tensor_view
from bitwright.debug.words import share, told
from bitwright.values.findings import Measurement, Step
from bitwright.values.tensors import TensorView

CLIPS_MUCH = 0.01
ROUNDS_MUCH_TO_ZERO = 0.5
SPREAD_MUCH = 8.0
TAILS_LONG = 30.0


def layer_by_layer(case: Case, state: State) -> Step:
    """Step 5: each quantizer alone at its bits, everything else in float."""
    title = "Which layers do the harm?"
    rule = f"each quantizer alone on at its bits, the rest in float; worst first by {case.distance}"
    analysis = case.swept(state.recipe)
    total = sum(row.distance for row in analysis)
    most = analysis.covering(0.8)
    worst = analysis.rows[0]
    conclusion = (
        f"The worst site is {worst.label} ({told(case, worst.distance)} alone, {share(worst.distance, total)} of the "
        f"sum); 80 % of it comes from {most} of {len(analysis)} sites."
    )
    rows = tuple(
        Measurement(f"{row.label} alone at {row.width} bits", row.distance, row.figures.get(case.task.agreement))
        for row in analysis
    )
    return Step(5, title, "done", rows, rule, conclusion, "", state.recipe, at_fault=state.at_fault, sweep=analysis)


def look_at_worst(case: Case, state: State) -> Step:
    """Step 6: the tensors of the worst sites with their grids."""
    title = "What do the worst tensors look like?"
    rule = (
        f"reported: more than {CLIPS_MUCH:.0%} clipped, more than {ROUNDS_MUCH_TO_ZERO:.0%} rounded to zero, a "
        f"slice that reaches {SPREAD_MUCH:g} times the median slice, a kurtosis above {TAILS_LONG:g} (normal: 3)"
    )
    graph = case.graph(state.recipe)
    analysis = state.sweep or case.swept(state.recipe)
    views = []
    for name in [row.label for row in analysis.rows[:LOOK_AT] if row.distance > 0]:
        bits = graph.policy[name]
        views.append(tensor_view(graph, name, case.session.batches("calibration"), 8 if bits is None else bits))
    conclusion = " ".join(f"{view.site} at {view.bits} bits: {describe(view)}." for view in views)
    rows = tuple(Measurement(view.site, note=describe(view)) for view in views)
    return Step(
        6, title, "done", rows, rule, conclusion, "", state.recipe, at_fault=state.at_fault, tensors=tuple(views)
    )


def describe(view: TensorView) -> str:
    """What stands out in a tensor, by the rules of step 6."""
    said = []
    if view.clipped > CLIPS_MUCH:
        said.append(f"{view.clipped:.1%} of its values are clipped")
    if view.to_zero > ROUNDS_MUCH_TO_ZERO:
        said.append(f"{view.to_zero:.0%} of its values are rounded to zero")
    for axis in view.axes:
        if math.isfinite(axis.spread) and axis.spread > SPREAD_MUCH:
            widest = axis.widest(1)[0]
            said.append(f"{axis.name} {widest} reaches {axis.spread:.0f} times the median {axis.name}")
    if view.kurtosis > TAILS_LONG:
        said.append(f"its tails are long (kurtosis {view.kurtosis:.0f})")
    quality = "nothing is lost" if math.isinf(view.sqnr) else f"SQNR {view.sqnr:.1f} dB"
    return f"{', '.join(said)}; {quality}" if said else f"nothing unusual; {quality}"
