"""The choices of a run, as pure functions: what was measured goes in, a policy comes out, with the reason in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from bitwright.cost import CostModel, keeps
from bitwright.report import format as text
from bitwright.values import Budget, Candidate, Front, Policy, Sites


@dataclass(frozen=True)
class Choice:
    """A chosen policy."""

    candidate: Candidate
    reason: str


def best_within(
    candidates: Sequence[Candidate], budgets: tuple[Budget, ...], sites: Sites, models: Mapping[str, CostModel]
) -> Choice:
    """The candidate with the smallest measured distance to float among those that keep the budgets.

    Args:
        candidates: measured, at least one of which keeps the budgets.
        budgets: hold at once. What is proven of the candidate comes from the one that was searched under these.
        sites: of the graph.
        models: metric -> cost.
    """
    fitting = [c for c in candidates if c.verdict is not None and keeps(c.policy, budgets, sites, models)]
    best = min(fitting, key=_distance)
    wanted = ", ".join(b.text or f"{b.metric}={b.limit:g}" for b in budgets)
    used = {b.metric: min(1.0, models[b.metric].of(best.policy, sites) / b.limit) for b in budgets}
    named = Policy(best.policy.bits, best.policy.graph_hash, wanted)
    unique = len({c.policy for c in fitting})
    reason = (
        f"Chosen for {wanted}: the smallest {_told(best)} on held-out calibration samples, of {unique} measured "
        "policies within the budget."
    )
    limits = {(b.metric, b.limit) for b in budgets}
    searched = next((c for c in candidates if {(b.metric, b.limit) for b in c.budgets} == limits), None)
    optimal, gap = (False, 0.0) if searched is None else searched.proof_for(best.policy, best.predicted)
    return Choice(replace(best, policy=named, budgets=budgets, optimal=optimal, gap=gap, used=used), reason)


def cheapest_holding(front: Front, drop: float, samples: int) -> Choice:
    """The cheapest candidate that holds a target as measured, and all dearer ones with it.

    That all dearer ones must hold too keeps a lucky draw of samples from deciding.

    Args:
        front: measured candidates.
        drop: points that may be lost (or percent: :attr:`~bitwright.values.Figure.lost`). Where the task makes
            decisions, changed ones are counted: on data that a network was trained on, accuracy is saturated, and it
            can lose no more than what changes.
        samples: that the measurements were made on.
    """
    ordered = sorted((c for c in front if c.verdict is not None), key=lambda c: c.costs[front.cost])
    chosen: Candidate | None = None
    for candidate in reversed(ordered):
        assert candidate.verdict is not None
        if candidate.verdict.may_lose > drop + 1e-9:
            break
        chosen = candidate
    held = f"{samples:,} held-out calibration samples"
    if chosen is None:
        dearest = ordered[-1]
        assert dearest.verdict is not None
        return Choice(
            dearest,
            f"No policy of the front is certain to lose at most {text.drop(dearest.verdict, drop)}: even the most "
            f"expensive one {text.may_lose(dearest.verdict, held)}. That one was chosen; allow more bits or a "
            "larger target.",
        )
    assert chosen.verdict is not None
    return Choice(
        chosen,
        f"Chosen as the cheapest policy that loses at most {text.drop(chosen.verdict, drop)}: it "
        f"{text.may_lose(chosen.verdict, held)}.",
    )


def without_repeats(front: Front) -> Front:
    """Candidates by ascending cost: each policy once, and none that a cheaper one beats in measured distance."""
    kept: list[Candidate] = []
    for candidate in sorted(front, key=lambda c: (c.costs[front.cost], _distance(c))):
        if not kept or _distance(candidate) < _distance(kept[-1]):
            kept.append(candidate)
    return replace(front, candidates=tuple(kept), course=(), regret=())


def with_choices(front: Front, choices: Iterable[Choice]) -> Front:
    """The front without repeats, and every choice on it under its own name."""
    chosen = [choice.candidate for choice in choices]
    own = {c.policy for c in chosen}
    others = [c for c in front if c.policy not in own]
    kept = without_repeats(replace(front, candidates=(*chosen, *others)))
    dropped = [c for c in chosen if c not in kept.candidates]  # beaten by one that another budget rules out
    return replace(front, candidates=tuple(sorted((*kept, *dropped), key=lambda c: c.costs[front.cost])))


def _distance(candidate: Candidate) -> float:
    return float("inf") if candidate.verdict is None else candidate.verdict.distance.value


def _told(candidate: Candidate) -> str:
    assert candidate.verdict is not None
    measure = candidate.verdict.figures[candidate.verdict.distance_name].measure
    return f"{measure.words} ({candidate.verdict.distance.value:.4f}{f' {measure.unit}' if measure.unit else ''})"
