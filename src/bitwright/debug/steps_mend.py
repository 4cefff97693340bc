"""Steps 3, 4 and 7 of the flow: what is mended, first a whole side, then single quantizers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bitwright.debug.bench import Bench
from bitwright.debug.state import (
    CONCENTRATED,
    IMPROVEMENT,
    MOST_FIXES,
    NEGLIGIBLE,
    State,
    better,
    measurement,
)
from bitwright.debug.steps_whole import blamed, by_side
from bitwright.debug.words import drop_of, nats, share
from bitwright.errors import InvalidInput
from bitwright.graph.graph import Graph
from bitwright.quantizers.uniform import ActivationQuantizer, WeightQuantizer
from bitwright.sensitivity.sweep import sweep
from bitwright.values import Verdict
from bitwright.values.findings import Measurement, Step
from bitwright.values.recipe import Action, Recipe
from bitwright.values.sweep import SweepRow

ACTIVATION_REPAIRS = ("smooth", "clip")
FITTING = ("bias", "adaround")
WEIGHT_REPAIRS = ("cle", "granularity", *FITTING)
CLIPPING = tuple(2.0**-k for k in range(1, 17))
"""Shares of the observed range that the clipping search tries first, down to 1/65,536."""
FINER = (0.6, 0.7, 0.84, 1.19, 1.4)
"""Then, of the best of them."""


class _Mending:
    """Tries actions one after the other and keeps those that lower the KL to float."""

    def __init__(self, bench: Bench, state: State) -> None:
        self.bench = bench
        self.recipe = state.recipe
        self.kl = bench.measure(bench.graph(state.recipe)).kl.value
        self.rows: list[Measurement] = [Measurement("before", self.kl)]
        self.kept: list[Action] = []
        self.verdict: Verdict | None = None

    def holds(self) -> bool:
        """Whether the target holds on the evaluation data now."""
        if self.verdict is None:
            self.verdict = self.bench.judge(self.recipe)
        return self.bench.holds(self.verdict)

    def attempt(self, action: Action) -> bool:
        """Try an action; keep it if it helps."""
        try:
            graph, report = self.bench.tried(self.recipe, action)
        except InvalidInput as error:
            self.rows.append(Measurement(str(action), kept=False, note=f"refused: {error}"))
            return False
        measured = self.bench.measure(graph)
        good = better(measured.kl.value, self.kl)
        self.rows.append(measurement(str(action), measured, good, str(report) if report is not None else ""))
        if good:
            self.recipe = self.recipe.then(action.kind, **action.options)
            self.bench.keep(self.recipe, graph)
            self.kl, self.verdict = measured.kl.value, None
            self.kept.append(action)
        return good

    def best_of(self, site: str, actions: Sequence[Action]) -> bool:
        """Compare actions at one site, from the site on; keep the best if it helps."""
        if not actions:
            return False
        found = self.bench.compare_at(self.recipe, site, list(actions))
        best = min(range(len(actions)), key=found.__getitem__)
        good = better(found[best], self.kl)
        for i, (action, kl) in enumerate(zip(actions, found, strict=True)):
            if i != best or not good:
                self.rows.append(Measurement(str(action), kl, kept=False))
        return good and self.attempt(actions[best])

    def own_range(self, site: str) -> bool:
        """Give one site the range that brings the whole network nearest to float."""
        graph = self.bench.graph(self.recipe)
        if not self.best_of(site, own_ranges(graph, site)):
            return False
        if self.kept[-1].kind == "limits":
            low, high = self.kept[-1].options["low"], self.kept[-1].options["high"]
            finer = [Action("limits", {"site": site, "low": low * f, "high": high * f}) for f in FINER]
            if self.best_of(site, finer):
                del self.kept[-2]
        return True

    def step(self, number: int, title: str, rule: str, state: State, start: float) -> Step:
        """The step, in words."""
        holds = self.holds() if self.kept else None
        if self.kept and self.verdict is not None:
            changed = "; ".join(str(action) for action in self.kept)
            conclusion = (
                f"{changed}: KL to float from {nats(start)} to {nats(self.kl)}; {drop_of(self.bench, self.verdict)}. "
                f"The target {'holds' if holds else 'does not hold yet'}."
            )
        else:
            changed, conclusion = "", f"Nothing that was tried lowers the KL to float by {IMPROVEMENT:.0%}."
        return Step(
            number,
            title,
            "done",
            tuple(self.rows),
            rule,
            conclusion,
            changed,
            self.recipe,
            self.verdict,
            holds,
            state.at_fault,
        )


def mend_weights(bench: Bench, state: State) -> Step:
    """Step 3: cross-layer equalization, scales per channel, bias correction, adaptive rounding, in this order.

    The first two rescale or regrid the weights, the others fit them to the grids that are then there.
    """
    title = "Weights at fault: what mends them?"
    rule = f"a change is kept when it lowers the KL to float of the whole network by {IMPROVEMENT:.0%} or more"
    if "weight" not in state.at_fault:
        return _skipped(3, title, rule, "Weights are not at fault.", state)
    mending = _Mending(bench, state)
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
        f"one site with {CONCENTRATED:.0%} or more of the activations' one-site KL is mended alone, else all ranges "
        f"are set otherwise; a change is kept when it lowers the KL to float by {IMPROVEMENT:.0%} or more"
    )
    sides: list[Measurement] = []
    if state.recipe.actions:  # what was mended since step 2 may have left the other side with most of the harm
        kls, sides = by_side(bench, state.recipe)
        state = replace(state, at_fault=blamed(kls))
    if "activation" not in state.at_fault:
        return replace(_skipped(4, title, rule, "Activations are not at fault.", state), measured=tuple(sides))
    mending = _Mending(bench, state)
    mending.rows += sides
    start = mending.kl
    graph = bench.graph(mending.recipe)
    names = [s.name for s in graph.sites.activations if graph.policy[s.name] is not None]
    analysis = sweep(graph, bench.calibration, graph.policy, sites=names, loss=bench.task.loss)
    worst, total = analysis.rows[0], sum(row.kl for row in analysis)
    alone = worst.kl >= CONCENTRATED * total > 0
    said = f"The worst activation is {worst.label}: {nats(worst.kl)} alone, {share(worst.kl, total)} of the sum of all."
    if alone:
        mending.own_range(worst.label)
    if not mending.kept:  # what is set for all sites would undo the range of the one
        for action in _for_all(bench, mending.recipe):
            if mending.attempt(action) and mending.holds():
                break
    step = mending.step(4, title, rule, state, start)
    return replace(step, conclusion=f"{said} {step.conclusion}", sweep=analysis)


def _for_all(bench: Bench, recipe: Recipe) -> list[Action]:
    """What can be done to all activations: other ranges, then repairs that move outliers away or cut them off.

    Last come those that fit weights and biases to the quantized inputs, which makes good part of what these lose.
    """
    found = []
    for method, percentile in (("mse", None), ("percentile", 99.99), ("percentile", 99.9), ("minmax", None)):
        if method == recipe.ranges and not any(action.kind == "ranges" for action in recipe.actions):
            continue
        options = {"kind": "activation", "method": method, **({"percentile": percentile} if percentile else {})}
        found.append(Action("ranges", options))
    if "cle" in bench.repairs and not recipe.repaired("cle"):
        found.append(Action("repair", {"name": "cle", "activations": True, **bench.repairs["cle"]}))
    for name in (*ACTIVATION_REPAIRS, *FITTING):
        if name in bench.repairs and not recipe.repaired(name):
            found.append(Action("repair", {"name": name, **bench.repairs[name]}))
    return found


def fix_quantizers(bench: Bench, state: State) -> Step:
    """Step 7: the worst sites one by one: an own range, then more bits, as long as it helps."""
    title = "Can single quantizers be fixed?"
    rule = (
        f"worst first by one-site KL, at most {MOST_FIXES} sites, none below {NEGLIGIBLE:.0%} of all: an own range, "
        f"then more bits; each is kept when it lowers the KL to float by {IMPROVEMENT:.0%} or more"
    )
    analysis = state.sweep
    if analysis is None:
        graph = bench.graph(state.recipe)
        analysis = sweep(graph, bench.calibration, graph.policy, loss=bench.task.loss)
    total = sum(row.kl for row in analysis)
    mending = _Mending(bench, state)
    start = mending.kl
    for row in [row for row in analysis.rows[:MOST_FIXES] if row.kl >= NEGLIGIBLE * total]:
        if _fix(mending, row) and mending.holds():
            break
    return mending.step(7, title, rule, state, start)


def _fix(mending: _Mending, row: SweepRow) -> bool:
    helped = mending.own_range(row.label)
    if helped and mending.holds():
        return True
    bits = mending.bench.graph(mending.recipe).policy[row.label]
    if bits is not None and bits < 16:
        wider = Action("bits", {"site": row.label, "bits": 8 if bits < 8 else 16})
        helped = mending.attempt(wider) or helped
    return helped


def own_ranges(graph: Graph, site: str) -> list[Action]:
    """Ways to set the range of one site; for activations with a search over clipped ranges."""
    quantizer = graph.quantizers[site]
    if isinstance(quantizer, WeightQuantizer):
        bits = quantizer.bits
        if bits is not None and quantizer.learned(bits):
            return []  # the rounding was learned for the range that it has
        kinds: tuple[tuple[str, float | None], ...] = (("mse", None), ("percentile", 99.9), ("minmax", None))
    else:
        kinds = (("mse", None), ("percentile", 99.99), ("percentile", 99.9), ("percentile", 99.0), ("minmax", None))
    found = [
        Action("ranges", {"site": site, "method": method, **({"percentile": percentile} if percentile else {})})
        for method, percentile in kinds
    ]
    if isinstance(quantizer, ActivationQuantizer) and quantizer.observed is not None:
        low, high = quantizer.observed.low, quantizer.observed.high
        for factor in CLIPPING:
            if low * factor < high * factor:
                found.append(Action("limits", {"site": site, "low": low * factor, "high": high * factor}))
    return found


def _skipped(number: int, title: str, rule: str, why: str, state: State) -> Step:
    return Step(number, title, "skipped", (), rule, why, "", state.recipe, None, None, state.at_fault)
