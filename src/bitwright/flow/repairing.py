"""Repairs by name: what each of them did, and the figures before and after all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from bitwright.errors import InvalidInput
from bitwright.repair import REPAIRS, RepairReport, check_sequence, functions_of
from bitwright.session import Session
from bitwright.values import Verdict
from bitwright.values.fitted import Fitted
from bitwright.values.json import Value
from bitwright.values.recipe import Action, Recipe


@dataclass(frozen=True)
class Repaired(Value, kind="repairs", version=2):
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


def check_repairs(begin: Sequence[Action], added: Sequence[Action]) -> None:
    """Refuse, before anything is computed, unknown repairs, unknown options, and orders that make no sense."""
    names = [str(action.options["name"]) for action in added]
    for action, name in zip(added, names, strict=True):
        REPAIRS[name].check_options("repair", [option for option in action.options if option != "name"])
    for position, name in enumerate(names):
        if name in names[:position]:
            raise InvalidInput(f"repair '{name}' is named twice; name it once")
    check_sequence([str(a.options.get("name")) for a in begin if a.kind == "repair"] + names)


def repair_policy(session: Session, begin: Recipe, added: Sequence[Action]) -> Repaired:
    """Apply repairs to the network under a policy, and measure what they bring."""
    check_repairs(begin.actions, added)
    first = session.under(begin)
    recipe = begin
    for action in added:
        recipe = recipe.then(action.kind, **action.options)

    def compute() -> dict[str, Any]:
        last, reports = first, []
        with session.steps.step("repair", len(added)) as tell:
            for number, action in enumerate(added, start=1):
                last, report = last.then(action)
                reports += [] if report is None else [report]
                tell(number)
        last.keep()
        verdicts = {}
        with session.steps.step("evaluate", 4) as tell:
            for on, prefix in (("holdout", "held_"), ("evaluation", "")):
                for name, one in (("before", first), ("after", last)):
                    verdicts[f"{prefix}{name}"] = one.measure(on=on)
                    tell(len(verdicts))
        fitted = last.fitted.fitted
        assert fitted is not None
        done = Repaired(recipe, tuple(reports), **verdicts, pass_seconds=session.float_seconds)
        return {"done": done.to_dict(), "fitted": fitted.to_dict()}

    functions = functions_of(recipe.actions)
    found = first.remember("repairs", compute, added=[dict(action.options) for action in added], functions=functions)
    return replace(Repaired.from_dict(found["done"]), recipe=recipe.with_fitted(Fitted.from_dict(found["fitted"])))
