"""The cheapest recipe that holds a target: policy and repairs together, with as few measurements as possible.

Policies come in the order of their cost, e.g. from a Pareto front. A dearer one is taken to hold where a cheaper one
does, so the cheapest that holds is found by bisection: about log2(n) policies are measured out of n. Each is tried
plain first, then with more and more expensive repairs, until it holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bitwright.errors import InvalidInput
from bitwright.report import format as text
from bitwright.session import Session
from bitwright.settings import DEFAULTS
from bitwright.values import Policy, Verdict
from bitwright.values.recipe import Action, Recipe


def ladder_of(repairs: Sequence[str]) -> tuple[tuple[Action, ...], ...]:
    """The plain policy, then each of these repairs alone."""
    return ((), *((Action("repair", {"name": name}),) for name in repairs))


@dataclass(frozen=True)
class Tried:
    """One recipe that was measured.

    Attributes:
        position: of its policy among the policies, cheapest first.
        recipe: policy and repairs.
        verdict: on the held-out samples.
        holds: whether it keeps the target there.
        note: why it could not be measured, where a repair refused.
    """

    position: int
    recipe: Recipe
    verdict: Verdict | None
    holds: bool
    note: str = ""


@dataclass(frozen=True)
class Auto:
    """The outcome.

    Attributes:
        recipe: the cheapest that holds, or the dearest policy with every repair where none does; with what was fitted
            where the network is still at hand.
        verdict: it on the held-out samples.
        holds: whether it keeps the target there.
        tried: everything that was measured, in this order.
        reason: in one or two sentences.
    """

    recipe: Recipe
    verdict: Verdict | None
    holds: bool
    tried: tuple[Tried, ...]
    reason: str


def cheapest_recipe(
    session: Session,
    policies: Sequence[Policy],
    target_drop: float,
    *,
    ladder: Sequence[Sequence[Action]] = ladder_of(DEFAULTS.repairs),
    progress: Callable[[int, int | None], None] | None = None,
) -> Auto:
    """Find the cheapest policy that holds a target, repaired as far as necessary.

    Args:
        session: what may be lost on its held-out samples decides
            (:attr:`~bitwright.values.Verdict.may_lose`). The actions of its recipe come before all others.
        policies: in the order of their cost, cheapest first.
        target_drop: points that may be lost.
        ladder: actions to try at each policy, cheapest first; an empty one is the plain policy.
        progress: called with (recipes measured, None).

    Raises:
        InvalidInput: no policies, an empty ladder, or a target out of range.
        PolicyMismatch: a policy of another graph.
    """
    if not policies or not ladder:
        raise InvalidInput("auto needs at least one policy and one rung of the ladder, got none")
    if not 0 <= target_drop <= 100:
        raise InvalidInput(f"target_drop must be between 0 and 100 points, got {target_drop}")
    for policy in policies:
        policy.check(session.sites)
    tried: list[Tried] = []

    def best_at(position: int) -> Tried:
        last = None
        for rung in ladder:
            recipe = Recipe(policies[position], session.recipe.ranges, (*session.recipe.actions, *rung))
            if progress is not None:
                progress(len(tried), None)
            try:
                verdict = session.under(recipe).measure()
            except InvalidInput as error:
                if not rung:
                    raise
                tried.append(Tried(position, recipe, None, False, str(error)))
                continue
            last = Tried(position, recipe, verdict, verdict.may_lose <= target_drop + 1e-9)
            tried.append(last)
            if last.holds:
                return last
        assert last is not None
        return last

    low, high, found = 0, len(policies) - 1, None
    while low <= high:
        middle = (low + high) // 2
        outcome = best_at(middle)
        if outcome.holds:
            found, high = outcome, middle - 1
        else:
            low = middle + 1
    measured = sum(1 for one in tried if one.verdict is not None)
    words = f"{measured} recipes of {len(policies)} policies were measured"
    if found is None:
        # Bisection without a success ends at the dearest policy.
        last = [one for one in tried if one.position == len(policies) - 1 and one.verdict is not None]
        best = min(last, key=lambda one: one.verdict.may_lose if one.verdict else math.inf)
        aim = text.drop(best.verdict, target_drop) if best.verdict is not None else f"{target_drop:g}"
        return Auto(
            best.recipe,
            best.verdict,
            False,
            tuple(tried),
            f"No policy is certain to lose at most {aim}, not even the most expensive one with repairs. {words}.",
        )
    assert found.verdict is not None
    with_what = ", ".join(str(action) for action in found.recipe.actions) or "no repair"
    return Auto(
        session.under(found.recipe).fitted,
        found.verdict,
        True,
        tuple(tried),
        f"The cheapest policy that loses at most {text.drop(found.verdict, target_drop)}, with {with_what}: it "
        f"{text.may_lose(found.verdict, 'held-out samples')}. {words}; a more expensive policy was assumed to hold "
        "the target where a cheaper one does.",
    )
