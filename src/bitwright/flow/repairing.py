"""Repairs by name on the bench: what each of them did, and the figures before and after all of them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from bitwright.debug import apply_action, apply_recipe, keep_fitted
from bitwright.errors import InvalidInput
from bitwright.flow.bench import Bench
from bitwright.flow.repaired import measuring, recalled, with_recipe
from bitwright.flow.steps import Steps
from bitwright.repair import REPAIRS, RepairReport, check_sequence, functions_of
from bitwright.store import content_key
from bitwright.values import FLOAT, Verdict
from bitwright.values.fitted import Fitted
from bitwright.values.recipe import Action, Recipe


@dataclass(frozen=True)
class Repaired:
    """What repairs did to a policy.

    Attributes:
        recipe: policy and repairs.
        reports: of each repair that was added, in their order.
        before: on the evaluation data, without them.
        after: on the evaluation data, with them.
        held_before: on held-out calibration samples, without them.
        held_after: on held-out calibration samples, with them.
        pass_seconds: processor seconds of one float pass over the calibration samples.
    """

    recipe: Recipe
    reports: tuple[RepairReport, ...]
    before: Verdict
    after: Verdict
    held_before: Verdict
    held_after: Verdict
    pass_seconds: float

    @property
    def helps(self) -> bool:
        """Whether the distance to float on held-out calibration samples is lower with the repairs."""
        return self.held_after.distance.value < self.held_before.distance.value

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        verdicts = ("before", "after", "held_before", "held_after")
        return {
            "bitwright": "repairs",
            "version": 1,
            "recipe": self.recipe.to_dict(),
            "reports": [report.to_dict() for report in self.reports],
            **{name: getattr(self, name).to_dict() for name in verdicts},
            "pass_seconds": self.pass_seconds,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Repaired:
        """Inverse of :meth:`to_dict`.

        Raises:
            InvalidInput: no repairs of this version.
        """
        if data.get("bitwright") != "repairs" or data.get("version") != 1:
            raise InvalidInput("these are no repairs of version 1; make them again with this Bitwright")
        return cls(
            Recipe.from_dict(data["recipe"]),
            tuple(RepairReport.from_dict(report) for report in data["reports"]),
            Verdict.from_dict(data["before"]),
            Verdict.from_dict(data["after"]),
            Verdict.from_dict(data["held_before"]),
            Verdict.from_dict(data["held_after"]),
            data["pass_seconds"],
        )


def check_repairs(begin: Sequence[Action], added: Sequence[Action]) -> None:
    """Refuse, before anything is computed, repairs that are unknown, have unknown options, or an order without sense.

    Raises:
        InvalidInput: with the reason.
    """
    names = [str(action.options["name"]) for action in added]
    for action, name in zip(added, names, strict=True):
        REPAIRS[name].check_options("repair", [option for option in action.options if option != "name"])
    for position, name in enumerate(names):
        if name in names[:position]:
            raise InvalidInput(f"repair '{name}' is named twice; once is enough")
    check_sequence([str(a.options.get("name")) for a in begin if a.kind == "repair"] + names)


def repair_policy(bench: Bench, begin: Recipe, added: Sequence[Action], steps: Steps) -> Repaired:
    """Apply repairs to the network under a policy, and measure what they bring.

    Args:
        bench: from :func:`~bitwright.flow.prepare`.
        begin: the policy, with what was done to it before.
        added: the repairs, in their order.
        steps: told how far it is.

    Raises:
        InvalidInput: a repair that refuses.
        PolicyMismatch: a recipe that was made for another graph.
    """
    check_repairs(begin.actions, added)
    recipe = begin
    for action in added:
        recipe = recipe.then(action.kind, **action.options)
    begin = recalled(bench, begin)
    key = content_key(
        repairs=2,
        graph=bench.identity,
        begin=begin.to_dict(),
        fitted="" if begin.fitted is None else begin.fitted.checksum,
        recipe=recipe.to_dict(),
        functions=functions_of(recipe.repairs),
    )

    def compute() -> dict[str, Any]:
        plain = not begin.actions and begin.ranges == bench.settings.ranges and begin.fitted is None
        first = bench if plain else with_recipe(bench, begin, steps, watch=True)
        reports: list[RepairReport] = []
        last = _further(bench, first, begin, recipe, reports, steps)
        assert last.recipe is not None
        assert last.recipe.fitted is not None
        bench.store.put(content_key(fitted=key), "fitted", last.recipe.fitted.to_dict())
        with steps.step("evaluate", 4) as tell:
            held_before = first.holdout(begin.policy)
            tell(1)
            held_after = last.holdout(recipe.policy)
            tell(2)
            before = first.evaluation(begin.policy)
            tell(3)
            after = last.evaluation(recipe.policy)
        return Repaired(recipe, tuple(reports), before, after, held_before, held_after, _pass_seconds(bench)).to_dict()

    found = Repaired.from_dict(bench.store.get_or_compute(key, "repairs", compute))
    kept = bench.store.get(content_key(fitted=key))
    fitted = None if kept is None else Fitted.from_dict(kept)
    return replace(found, recipe=recipe.with_fitted(fitted))


def _further(
    bench: Bench, first: Bench, begin: Recipe, recipe: Recipe, reports: list[RepairReport], steps: Steps
) -> Bench:
    """The bench with the rest of a recipe, after its beginning."""
    batches = bench.drawn.calibration
    added = recipe.actions[len(begin.actions) :]
    with steps.step("repair", len(added)) as tell:
        if first is bench:
            graph = apply_recipe(bench.graph.copy(), begin, batches)
        else:
            graph = first.graph.copy().apply(begin.policy)
        for number, action in enumerate(added, start=1):
            report = apply_action(graph, action, batches)
            reports += [] if report is None else [report]
            tell(number)
    return measuring(bench, graph, keep_fitted(graph, recipe))


def _pass_seconds(bench: Bench) -> float:
    with bench.graph.applied(FLOAT), torch.no_grad():
        bench.graph(bench.drawn.calibration[0][0])  # the first pass is slower
        start = time.process_time()
        for inputs, _ in bench.drawn.calibration:
            bench.graph(inputs)
        return time.process_time() - start
