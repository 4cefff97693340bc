"""Trying actions on a network one after the other, and keeping those that bring it nearer to float."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from bitwright.debug.case import Case
from bitwright.debug.state import IMPROVEMENT, State, better, measurement
from bitwright.debug.words import drop_of, listed, target_of, told
from bitwright.errors import InvalidInput
from bitwright.graph.batches import iterate
from bitwright.graph.graph import Graph
from bitwright.graph.twins import Lane
from bitwright.graph.variants import groups
from bitwright.graph.walk import Walk
from bitwright.repair import REPAIRS, Repair, RepairReport, apply_action, flow_repairs
from bitwright.repair.descriptor import Side
from bitwright.repair.equalization import PRECISION
from bitwright.sensitivity.sweep import Tally, expected_of
from bitwright.session import Session
from bitwright.settings import RANGES
from bitwright.tasks.columns import FloatSide
from bitwright.values import Verdict
from bitwright.values.findings import Measurement, Step
from bitwright.values.recipe import Action, Recipe
from bitwright.values.verdict import Outcome

CLIPPING = tuple(2.0**-k for k in range(1, 17))
"""Shares of the observed range that the clipping search tries first, down to 1/65,536."""
FINER = (0.6, 0.7, 0.84, 1.19, 1.4)
"""Then, of the best of them."""
UNEVEN = 2.0
"""Equalization is said to have found uneven channels when some use at least this many times as much of their ranges."""


def fits(action: Action) -> int:
    """How thoroughly an action fits rounding and biases to the grids that are there, 0: not at all."""
    known = REPAIRS.get(str(action.options.get("name"))) if action.kind == "repair" else None
    return known.fits if known is not None else 0


def without_replaced(recipe: Recipe, action: Action) -> Recipe:
    """The recipe without earlier repairs of which an action would find anew all that they found."""
    return recipe.without([repair.name for repair in REPAIRS.values() if 0 < repair.fits < fits(action)])


def repairs_left(case: Case, recipe: Recipe, side: Side) -> list[Repair]:
    """The repairs of a side that may be used and are not in the recipe."""
    return [r for r in flow_repairs(side) if r.name in case.repairs and not recipe.repaired(r.name)]


def action_of(case: Case, repair: Repair, side: Side) -> Action:
    """A repair with the options that it has on a side, and those that the user gave."""
    return Action("repair", {"name": repair.name, **repair.mends[side], **case.repairs[repair.name]})


class Mending:
    """Tries actions one after the other and keeps those that lower the distance to float."""

    def __init__(self, case: Case, state: State) -> None:
        self.case = case
        self.recipe = state.recipe
        self.start = self.distance = case.measure(state.recipe).distance.value
        self.rows: list[Measurement] = [Measurement("before", self.distance)]
        self.kept: list[Action] = []
        self.reports: dict[Action, RepairReport] = {}
        self.verdict: Verdict | None = None

    def judged(self) -> Verdict:
        """The network as it is now, on the evaluation data."""
        if self.verdict is None:
            self.verdict = self.case.judge(self.recipe)
        return self.verdict

    def holds(self) -> bool:
        """Whether the target holds on the evaluation data now, with the whole interval."""
        return self.case.outcome(self.judged()) == "holds"

    def within(self) -> bool:
        """Whether what is measured on the evaluation data now is within the target."""
        return self.case.within(self.judged())

    def attempt(self, action: Action) -> bool:
        """Try an action; keep it if it helps."""
        return self.attempt_one_of([action])

    def attempt_one_of(self, actions: Sequence[Action]) -> bool:
        """Try each of some actions on the network as it is; keep the best one if it helps."""
        best: tuple[Action, Session, Verdict, int] | None = None
        for action in actions:
            try:
                tried, report = self.case.session.under(without_replaced(self.recipe, action)).then(action)
            except InvalidInput as error:
                self.rows.append(Measurement(str(action), kept=False, note=f"refused: {error}"))
                continue
            measured = tried.measure(on="calibration")
            if report is not None:
                self.reports[action] = report
            self.rows.append(measurement(str(action), measured, False, str(report) if report is not None else ""))
            limit = self.distance if best is None else best[2].distance.value
            if better(measured.distance.value, self.distance) and measured.distance.value < limit:
                best = (action, tried, measured, len(self.rows) - 1)
        if best is None:
            return False
        action, tried, measured, row = best
        self.rows[row] = replace(self.rows[row], kept=True)
        self.recipe = tried.keep().recipe
        self.distance, self.verdict = measured.distance.value, None
        self._let_go([earlier for earlier in self.kept if earlier not in self.recipe.actions])
        self.kept.append(action)
        return True

    def _let_go(self, actions: Sequence[Action]) -> None:
        """Note that something else has taken the place of some actions that were kept."""
        labels = {str(action) for action in actions}
        self.kept = [action for action in self.kept if action not in actions]
        self.rows = [replace(row, kept=False) if row.kept and row.label in labels else row for row in self.rows]

    def instead(self, start: Recipe, actions: Sequence[Action]) -> bool:
        """Try alternatives to all that was kept since a recipe; keep the best in its place if it is better."""
        recipe, kept, verdict = self.recipe, self.kept, self.verdict
        self.recipe, self.kept = start, []
        if self.attempt_one_of(actions):
            self._let_go(kept)
            return True
        self.recipe, self.kept, self.verdict = recipe, kept, verdict
        return False

    def drop_needless(self) -> None:
        """Take out what was kept earlier and no longer lowers the distance, now that the later actions are there."""
        if any(fits(action) for action in self.kept):
            return  # what was fitted would have to be fitted again for each try
        for action in self.kept[:-1]:
            actions = tuple(a for a in self.recipe.actions if a != action)
            shorter = replace(self.recipe, actions=actions)
            measured = self.case.measure(shorter)
            needless = measured.distance.value * (1 - IMPROVEMENT) <= self.distance
            self.rows.append(measurement(f"without {action}", measured, needless))
            if needless:
                self.recipe, self.distance, self.verdict = shorter, measured.distance.value, None
                self.kept.remove(action)

    def best_of(self, site: str, actions: Sequence[Action]) -> bool:
        """Compare actions at one site, from the site on; keep the best if it helps."""
        if not actions:
            return False
        found = compared(self.case.session.under(self.recipe), site, actions)
        best = min(range(len(actions)), key=found.__getitem__)
        good = better(found[best], self.distance)
        for i, (action, value) in enumerate(zip(actions, found, strict=True)):
            if i != best or not good:
                self.rows.append(Measurement(str(action), value, kept=False))
        return good and self.attempt(actions[best])

    def own_range(self, site: str) -> bool:
        """Give one site the range that brings the whole network nearest to float."""
        graph = self.case.graph(self.recipe)
        if not self.best_of(site, own_ranges(graph, site)):
            return False
        if self.kept[-1].kind == "limits":
            low, high = self.kept[-1].options["low"], self.kept[-1].options["high"]
            finer = [Action("limits", {"site": site, "low": low * f, "high": high * f}) for f in FINER]
            self.best_of(site, finer)
        return True

    def step(self, number: int, title: str, rule: str, state: State, start: float) -> Step:
        """The step, in words."""
        outcome: Outcome | None = None
        changed, conclusion = (
            "",
            f"Nothing that was tried lowers the {self.case.distance} by {IMPROVEMENT:.0%} or more.",
        )
        if self.kept:
            verdict = self.judged()
            outcome = self.case.outcome(verdict)
            changed = "; ".join(str(action) for action in self.kept)
            conclusion = (
                f"With {listed(self.kept)}, the {self.case.distance} falls from {told(self.case, start)} to "
                f"{told(self.case, self.distance)}: {drop_of(self.case, verdict)}. {self._evidence()}"
                f"{target_of(self.case, verdict)}"
            )
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
            outcome,
            state.at_fault,
        )

    def _evidence(self) -> str:
        """Where the equalization that was kept found uneven channels."""
        for action in self.kept:
            report = self.reports.get(action)
            changes = [c for c in report.changes if c.what == PRECISION] if report is not None else []
            if not changes:
                continue
            worst = max(changes, key=lambda change: change.after - change.before)
            if worst.after >= UNEVEN * worst.before:
                return (
                    f"The channels were uneven, most of all at {worst.site}: they used {worst.before:.1%} of their "
                    f"ranges on average, and now use {worst.after:.0%}. "
                )
        return ""


def compared(session: Session, site: str, actions: Sequence[Action]) -> list[float]:
    """Distance to float of the whole policy after each of some actions that concern one site's quantizer alone.

    The network in front of the site is run once for all of them. Actions start from what the action before left, so
    those that replace a range by another kind of range come first.
    """
    task, batches = session.task, session.batches("calibration")
    tallies, floats = [Tally(task) for _ in actions], FloatSide(task)
    for group in groups(session.graph, iterate(batches, session.graph)):
        graph = session.graph.copy()  # the actions change the site's quantizer
        expected = [expected_of(graph, task, inputs, targets) for inputs, targets in group]
        for one in expected:
            floats.add(one)
        walk = Walk(graph.module)
        lane = Lane(walk, [inputs for inputs, _ in group])
        with torch.no_grad():
            lane.to(walk.start(graph.linked(site)))
            for action, tally in zip(actions, tallies, strict=True):
                apply_action(graph, action, batches, task)
                graph.apply(graph.policy)  # the steps of sites that are linked with this one follow
                for one, outputs in zip(expected, lane.outputs(), strict=True):
                    tally.add(one, outputs)
    return [tally.distance(floats) for tally in tallies]


def range_actions(percentiles: Sequence[float], **where: str) -> list[Action]:
    """Ranges by each method, that of percentiles with several; those that look at all values last."""
    shares: dict[str, Sequence[float]] = {"percentile": percentiles}
    return [
        Action("ranges", {**where, "method": method, **({"percentile": share} if share else {})})
        for method in reversed(RANGES)
        for share in shares.get(method, (0.0,))
    ]


def own_ranges(graph: Graph, site: str) -> list[Action]:
    """Ways to set the range of one site; for activations with a search over clipped ranges."""
    quantizer = graph.quantizers[site]
    if quantizer.site.kind == "weight":
        bits = quantizer.bits
        if bits is not None and quantizer.learned(bits):
            return []  # the rounding was learned for the range that it has
        found = range_actions((99.9,), site=site)
    else:
        found = range_actions((99.99, 99.9, 99.0), site=site)
    if quantizer.observed is not None:
        low, high = quantizer.observed.low, quantizer.observed.high
        for factor in CLIPPING:
            if low * factor < high * factor:
                found.append(Action("limits", {"site": site, "low": low * factor, "high": high * factor}))
    return found
