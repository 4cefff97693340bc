"""Trying actions on a network one after the other, and keeping those that bring it nearer to float."""

from __future__ import annotations

from collections.abc import Sequence

from bitwright.debug.bench import Bench
from bitwright.debug.state import IMPROVEMENT, State, better, measurement
from bitwright.debug.words import drop_of, nats
from bitwright.errors import InvalidInput
from bitwright.graph.graph import Graph
from bitwright.quantizers.uniform import ActivationQuantizer, WeightQuantizer
from bitwright.values import Verdict
from bitwright.values.findings import Measurement, Step
from bitwright.values.recipe import Action

CLIPPING = tuple(2.0**-k for k in range(1, 17))
"""Shares of the observed range that the clipping search tries first, down to 1/65,536."""
FINER = (0.6, 0.7, 0.84, 1.19, 1.4)
"""Then, of the best of them."""


class Mending:
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
