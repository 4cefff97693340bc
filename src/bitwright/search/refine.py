"""Measuring in the loop: measure the front, correct the prediction with what was measured, search again."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from bitwright.cost import CostModel, costs_for, keeps
from bitwright.errors import InvalidInput
from bitwright.search.calibrated import Calibrated, calibrated, harm_of
from bitwright.search.constraints import Constraints
from bitwright.search.front import HasSites, search, sites_of
from bitwright.settings import DEFAULTS
from bitwright.values import Candidate, Front, Move, Policy, SensitivityTable, Sites, Verdict

DRAWS = 8
"""Draws of the factors from which the regret is estimated."""
_MISSES = 12
"""Draws one after another that lead to no new policy, after which there is nothing left to look for."""
_REFITTED = 8
"""A part of the measurements that is new, one in so many, before the factors are fitted again."""


@dataclass(frozen=True)
class Refinement:
    """What measuring in the loop found.

    Attributes:
        front: for each candidate of the front that it began with, the measured policy of smallest harm within
            the same budgets; ``predicted`` is in the measured unit. With a budget of evaluations or minutes it says how
            far it moved and what regret is left.
        measured: every policy that was measured, with its harm, in order.
        model: the last prediction of what policies measure.
        rounds: searches with expected factors.
        converged: no search found a policy that had not been measured.
    """

    front: Front
    measured: tuple[tuple[Policy, float], ...]
    model: Calibrated
    rounds: int
    converged: bool

    def harm(self, policy: Policy) -> float:
        """The measured harm of a policy.

        Raises:
            InvalidInput: it was not measured.
        """
        found = dict(self.measured).get(policy)
        if found is None:
            raise InvalidInput(f"the policy '{policy.name}' was not measured; it is not on the refined front")
        return found


def refine(
    front: Front,
    measure: Callable[[Policy], float | Verdict],
    graph: Sites | HasSites,
    scores: SensitivityTable | Sequence[SensitivityTable],
    *,
    constraints: Constraints | None = None,
    costs: Mapping[str, CostModel] | None = None,
    rounds: int = DEFAULTS.rounds,
    evaluations: int | None = DEFAULTS.evaluations,
    minutes: float | None = DEFAULTS.minutes,
    unit: str = "measured harm",
    time_limit: float = 60.0,
    also: Iterable[Policy] = (),
    seed: int = DEFAULTS.seed,
) -> Refinement:
    """Measure the candidates of a front, correct the scores, and search again until the front no longer moves.

    Before the first search two halves of the candidate in the middle are measured, too, its weights alone and its
    activations alone, which tell the two scales apart. What corrects the scores is
    :class:`~bitwright.search.calibrated.Calibrated`.

    With a budget of evaluations or minutes the search goes on where the expected scores find nothing new: it draws the
    sites' factors as likely as the measurements leave them and measures the best policy of each draw (Thompson
    sampling), so that it looks where a better policy may still be.

    Args:
        front: from :func:`bitwright.search.search`, with the budgets that are to be searched again.
        measure: policy -> harm (smaller is better, 0 for float), or a verdict, whose distance to float counts.
        graph: a captured graph, or its sites.
        scores: the table that the front came from; those of other methods behind it take part in the prediction.
        constraints: those of the first search.
        costs: further cost models, as for :func:`bitwright.search.search`.
        rounds: most searches with expected factors, where neither evaluations nor minutes are given.
        evaluations: most policies to measure, at least one for each candidate.
        minutes: after which no further policy is measured, once each candidate was.
        unit: of the measured harm, for the front.
        time_limit: seconds for each candidate of a search.
        also: further policies to measure, e.g. uniform ones; a budget gets one of them where it is the best.
        seed: of the draws.

    Raises:
        InvalidInput: an empty front, candidates without budgets, too few evaluations, or harms that are not finite.
    """
    if len(front) == 0 or any(not c.budgets for c in front):
        raise InvalidInput("refine needs a front from search: at least one candidate, each with its budgets")
    if rounds < 1:
        raise InvalidInput(f"rounds must be at least 1, got {rounds}")
    distinct = len({candidate.policy for candidate in front})
    if evaluations is not None and evaluations < distinct:
        raise InvalidInput(
            f"evaluations must be at least {distinct}, one for each candidate of the front, got {evaluations}; ask for "
            "fewer budgets or points"
        )
    tables = (scores,) if isinstance(scores, SensitivityTable) else tuple(scores)
    sites, models = sites_of(graph), {**costs_for(), **(costs or {})}
    log = _Log(measure, evaluations, minutes)
    find = partial(
        search,
        sites,
        cost=front.cost,
        budgets=[c.budgets for c in front],
        constraints=constraints,
        time_limit=time_limit,
        costs=costs,
    )
    for candidate in front:
        log.measure(candidate.policy, always=True)
    for policy in _halves(front[len(front) // 2].policy, sites):
        log.measure(policy, whole=False)
    for policy in also:
        log.measure(policy)
    model = calibrated(tables, sites, log.found)
    done, converged, current = 0, False, front
    while not converged and (log.limited or done < rounds) and (done == 0 or not log.full):
        model = calibrated(tables, sites, log.found)
        current = find(model.table())
        done += 1
        converged = not sum([log.measure(c.policy) for c in current])
    if log.limited and model.fitted:
        model, found = _explored(log, model, find, seed)
        done, converged = done + found, log.misses >= _MISSES
        current = find(model.table())
    course, best = _course(log, current, sites, models, front)
    table = model.table()
    chosen = [_candidate(w, entry, model, table, log, models, sites) for w, entry in zip(best, current, strict=True)]
    method = f"{tables[0].method}, refined on {len(log.found)} measurements"
    regret = _regret(model, find, best, seed) if log.limited and model.fitted else ()
    refined = Front(tuple(chosen), method, unit, front.cost, "measured", course if log.limited else (), regret)
    return Refinement(refined, tuple(log.harms.items()), model, done, converged)


def _halves(policy: Policy, sites: Sites) -> Iterator[Policy]:
    for kind in ("weight", "activation"):
        half = {s: b for s, b in policy.bits.items() if sites[s].kind == kind}
        if half:
            yield Policy(half, policy.graph_hash, f"{policy.name}, {kind}s alone")


def _explored(
    log: _Log, model: Calibrated, find: Callable[[SensitivityTable], Front], seed: int
) -> tuple[Calibrated, int]:
    """Measure the best policies of drawn factors until the budget is used up or nothing new is found.

    Returns:
        The last model, and how many searches were made with its expected factors.
    """
    searches, turn, fresh = 0, 0, 0
    while not log.full and log.misses < _MISSES:
        drawn = find(model.table(seed + turn + 1))
        entries = [drawn[(turn + i) % len(drawn)] for i in range(len(drawn))]
        turn += 1
        new = next((c.policy for c in entries if c.policy not in log.found), None)
        if new is None:
            log.misses += 1
            continue
        log.misses = 0
        fresh += log.measure(new)
        if fresh * _REFITTED >= len(log.found) and not log.full:
            fresh, model = 0, calibrated(model.tables, model.sites, log.found)
            searches += 1
            for candidate in find(model.table()):
                log.measure(candidate.policy)
    return calibrated(model.tables, model.sites, log.found), searches


def _course(
    log: _Log, entries: Iterable[Candidate], sites: Sites, models: Mapping[str, CostModel], front: Front
) -> tuple[tuple[Move, ...], list[Policy]]:
    """How the smallest harm within the budgets of each entry fell, and the policies that have it in the end."""
    budgets = [entry.budgets for entry in entries]
    best: list[Policy | None] = [None] * len(budgets)
    moves: list[Move] = []
    for number, (policy, harm) in enumerate(log.harms.items(), start=1):
        moved = False
        for i, limits in enumerate(budgets):
            held = best[i]
            better = held is None or harm < log.harms[held]
            if better and policy in log.whole and keeps(policy, limits, sites, models):
                best[i], moved = policy, True
        if moved:
            moves.append(Move(number, tuple(None if held is None else log.harms[held] for held in best)))
    return tuple(moves), [held or candidate.policy for held, candidate in zip(best, front, strict=True)]


def _regret(
    model: Calibrated, find: Callable[[SensitivityTable], Front], best: Sequence[Policy], seed: int
) -> tuple[float, ...]:
    """Of each policy: what the best one of each draw would save by that draw, on average."""
    seeds = range(seed + 1, seed + 1 + DRAWS)
    drawn = [(s, find(model.table(s))) for s in seeds]
    return tuple(sum(model.gain(s, held, front[i].policy) for s, front in drawn) / DRAWS for i, held in enumerate(best))


def _candidate(
    winner: Policy,
    entry: Candidate,
    model: Calibrated,
    table: SensitivityTable,
    log: _Log,
    models: Mapping[str, CostModel],
    sites: Sites,
) -> Candidate:
    """The measured policy as a candidate for the budgets of an entry of the search."""
    values = {m: models[m].of(winner, sites) for m in entry.costs}
    verdict = log.found[winner]
    return Candidate(
        Policy(winner.bits, winner.graph_hash, entry.policy.name),
        model.harm(winner),
        values,
        entry.budgets,
        *entry.proof_for(winner, table.predict(winner)),
        {b.metric: min(1.0, values[b.metric] / b.limit) for b in entry.budgets},
        verdict if isinstance(verdict, Verdict) else None,
    )


class _Log:
    """Measures each policy once, within a budget.

    Attributes:
        found: policy -> what was measured, in order.
        whole: policies that may be chosen: all but halves.
        misses: draws one after another that led to no new policy.
    """

    def __init__(
        self, measure: Callable[[Policy], float | Verdict], evaluations: int | None, minutes: float | None
    ) -> None:
        self._measure, self._evaluations = measure, evaluations
        self._end = math.inf if minutes is None else time.monotonic() + 60.0 * minutes
        self.limited = evaluations is not None or minutes is not None
        self.found: dict[Policy, float | Verdict] = {}
        self.whole: set[Policy] = set()
        self.misses = 0

    @property
    def harms(self) -> dict[Policy, float]:
        """Policy -> measured harm, in order."""
        return {policy: harm_of(found) for policy, found in self.found.items()}

    @property
    def full(self) -> bool:
        """Whether the budget is used up."""
        spent = self._evaluations is not None and len(self.found) >= self._evaluations
        return spent or time.monotonic() >= self._end

    def measure(self, policy: Policy, always: bool = False, whole: bool = True) -> bool:
        """Measure a policy, unless that was done or the budget is used up; whether it was new."""
        if policy in self.found or (self.full and not always):
            return False
        result = self._measure(policy)
        try:
            harm = harm_of(result)
        except (TypeError, ValueError):
            raise InvalidInput(
                f"measure must give a number or a verdict for each policy, got {type(result).__name__} for "
                f"'{policy.name}'"
            ) from None
        if not math.isfinite(harm):
            raise InvalidInput(f"measure gave {harm} for the policy '{policy.name}'; it must give a finite number")
        self.found[policy] = result
        if whole:
            self.whole.add(policy)
        return True
