"""From a problem to its best choice: split into components, list their options, choose under the budgets.

Written by hand, since components and their options serve every budget of a front, where a solver of integer programs
begins anew: 50 BOPs budgets over six widths take 0.16 s at 50 sites and 1.1 s at 200, HiGHS 9.9 s and 48 s (processor
time, one thread, ``benchmarks/search_time.py``). HiGHS is asked where components are too entangled to be listed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bitwright.errors import InvalidInput
from bitwright.search.constraints import Width
from bitwright.search.knapsack import Knapsack
from bitwright.search.milp import evaluate, solve_milp
from bitwright.search.objective import Objective, make_objective
from bitwright.search.options import ENUMERATED, Grid, Options, TooManyOptions, combinations, eliminate, grid
from bitwright.search.problem import Floats, Mask, Problem

PROVEN = 1e-6
"""Relative gap up to which a solution counts as proven optimal."""
HUB = 16
"""A variable with more neighbours than this is fixed to each of its levels in turn before options are listed."""
MOST_LEAVES = 64
"""Most problems that fixing hubs may lead to; beyond, the integer program is solved whole."""
_PRECISION = 10
"""Bits that the objective may lose before it is rounded again on a finer grid."""


@dataclass(frozen=True)
class Solution:
    """A choice with its proof.

    Attributes:
        widths: of each variable.
        excess: harm above the sum of the smallest harms of all variables.
        gap: proven bound on how far from the smallest excess it is, relative to ``excess``.
    """

    widths: tuple[Width, ...]
    excess: float
    gap: float

    @property
    def optimal(self) -> bool:
        """Proven: no other choice is better by more than one part in a million."""
        return self.gap <= PROVEN


class Leaf:
    """A problem without hubs. Small components are listed once and serve every objective."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.grids: list[Grid] = []
        self.large: list[tuple[int, ...]] = []
        for component in problem.components():
            if combinations(problem, component) <= ENUMERATED:
                listed = grid(problem, component)
                if len(listed.choice) == 0:
                    raise _contradiction(problem, component)
                self.grids.append(listed)
            else:
                self.large.append(component)

    def hub(self, most: int = HUB) -> int | None:
        """The variable of a large component with most neighbours, if it has more than ``most``."""
        degree: dict[int, int] = {}
        inside = {v for component in self.large for v in component}
        for u, v in self.problem.edges:
            if u in inside:
                degree[u] = degree.get(u, 0) + 1
                degree[v] = degree.get(v, 0) + 1
        best = min(degree, key=lambda v: (-degree[v], v), default=None)
        return best if best is not None and degree[best] > most else None

    def lists(self, objective: Objective) -> list[tuple[tuple[int, ...], Options]]:
        """Variables and options of each component."""
        if self.hub() is not None:
            raise TooManyOptions
        found = [(g.variables, g.options(objective)) for g in self.grids]
        for component in self.large:
            try:
                found.append((component, eliminate(self.problem, component, objective)))
            except KeyError:
                raise _contradiction(self.problem, component) from None
        return found

    def local(self, top: Problem, objective: Objective) -> Objective:
        """The objective of the whole problem for the levels that are left here."""
        which = [
            [all_levels.index(b) for b in levels]
            for all_levels, levels in zip(top.levels, self.problem.levels, strict=True)
        ]
        return replace(
            objective,
            values=tuple(a[w] for a, w in zip(objective.values, which, strict=True)),
            possible=tuple(a[w] for a, w in zip(objective.possible, which, strict=True)),
        )


Listed = tuple[Leaf, Objective, list[tuple[tuple[int, ...], Options]] | None]
"""A leaf, its objective, and the variables and options of its components; None where there are too many."""


def _least(problem: Problem, component: Sequence[int]) -> float:
    """A bound on the smallest cost of a component."""
    inside = set(component)
    total = sum(float(problem.linear[v].min()) for v in component)
    return total + sum(float(a.min()) for (u, _), a in problem.pairs.items() if u in inside)


def _contradiction(problem: Problem, component: Sequence[int]) -> InvalidInput:
    names = [problem.names[v][0] for v in component]
    shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
    return InvalidInput(f"the constraints leave no combination of widths for the sites {shown}; relax them")


class Solver:
    """Solves one problem for one set of harms under any number of limits.

    Args:
        problem: from :func:`~bitwright.search.problem.build_problem`.
        harms: for each variable (levels,) harm.
        leaves: those of another solver of the same problem, to save making them again.
    """

    def __init__(self, problem: Problem, harms: Sequence[Floats], leaves: list[Leaf] | None = None) -> None:
        self.problem = problem
        self.excess = [h - h.min() for h in harms]
        self.harms = harms
        self.largest = max((float(e.max()) for e in self.excess), default=0.0)
        self.leaves = leaves if leaves is not None else _leaves(problem)
        self._listed: dict[int, list[Listed]] = {}

    def smallest(self) -> Floats:
        """(M,) the smallest cost that any choice has in each metric alone.

        For graphs too entangled to go through, a bound: every site and every pair at its own smallest.
        """
        found = np.full(len(self.problem.metrics), np.inf)
        zero = make_objective([np.zeros(len(ls)) for ls in self.problem.levels], self.problem.preference)
        for leaf in self.leaves:
            for j in range(len(found)):
                flat = replace(
                    leaf.problem,
                    metrics=leaf.problem.metrics[j : j + 1],
                    linear=tuple(a[:, j : j + 1] for a in leaf.problem.linear),
                    pairs={e: a[:, :, j : j + 1] for e, a in leaf.problem.pairs.items()},
                )
                nothing = replace(
                    zero,
                    values=tuple(np.zeros(len(ls), dtype=np.int64) for ls in flat.levels),
                    possible=tuple(np.ones(len(ls), dtype=bool) for ls in flat.levels),
                )
                total = sum(float(g.cost[:, j].min()) for g in leaf.grids)
                for component in leaf.large:
                    try:
                        total += float(eliminate(flat, component, nothing).cost.min())
                    except TooManyOptions:
                        total += _least(flat, component)
                    except KeyError:
                        total = math.inf
                found[j] = min(found[j], total)
        return np.asarray(found + self.problem.constant)

    def solve(self, limits: Floats, time_limit: float = 60.0) -> Solution | None:
        """The choice of smallest harm under limits, or None when nothing fits.

        Args:
            limits: (M,) infinite for no limit.
            time_limit: in seconds, after which the best choice found so far is returned with its gap.
        """
        deadline = time.perf_counter() + time_limit
        lost = 0
        while True:
            solution = self._solve(limits - self.problem.constant, lost, deadline)
            if solution is None or not 0.0 < solution.excess < self.largest * 2.0 ** (-lost - _PRECISION):
                return solution
            finer = math.floor(-math.log2(solution.excess / self.largest) / _PRECISION) * _PRECISION
            if finer <= lost or time.perf_counter() > deadline:
                return solution
            lost = finer

    def proven(self, widths: tuple[Width, ...], best: Solution) -> Solution:
        """Another choice under the same limits, with what the proof of the best one says of it."""
        excess = self._excess(widths)
        least = best.excess * (1.0 - best.gap)
        return Solution(widths, excess, 1.0 - least / excess if excess > 0.0 else 0.0)

    def _excess(self, widths: tuple[Width, ...]) -> float:
        return sum(float(e[ls.index(w)]) for e, ls, w in zip(self.excess, self.problem.levels, widths, strict=True))

    def smallest_within(self, j: int, limits: Floats) -> float | None:
        """The smallest cost in metric ``j`` while all other limits hold; None when it is not known."""
        others = limits - self.problem.constant
        scale = 2.0**40 / max(float(others[j]), 1e-300)
        others[j] = np.inf
        nothing = make_objective([np.zeros(len(ls)) for ls in self.problem.levels], self.problem.preference)
        nothing = replace(nothing, values=tuple(0 * v for v in nothing.values))
        found: list[float] = []
        for _, local, lists in _listed(self.problem, self.leaves, nothing):
            if lists is None:
                return None
            costs = [
                Options(np.rint(options.cost[:, j] * scale).astype(np.int64), options.cost, options.choice)
                for _, options in lists
            ]
            knapsack = Knapsack(costs, others)
            chosen = knapsack.solve(replace(local, shift=0))
            if chosen.value is not None:
                found.append(float(knapsack.cost[chosen.picks, j].sum()))
        return min(found) + float(self.problem.constant[j]) if found else None

    def _solve(self, limits: Floats, lost: int, deadline: float) -> Solution | None:
        best: tuple[int, tuple[Width, ...]] | None = None
        bound = math.inf
        objective: Objective | None = None
        for leaf, local, lists in self._lists(lost):
            objective = local
            known = None if best is None else best[0]
            if lists is not None and any(len(options) == 0 for _, options in lists):
                continue
            picks = np.zeros(len(self.problem.levels), dtype=np.intp)
            value: int | None = None
            lower = -math.inf
            if lists is not None:
                knapsack = Knapsack([options for _, options in lists], limits)
                chosen = knapsack.solve(local, known, deadline)
                value, lower = chosen.value, chosen.bound
                if value is not None:
                    for (variables, options), start, pick in zip(
                        lists, np.cumsum([0, *(len(o) for _, o in lists)])[:-1], chosen.picks, strict=True
                    ):
                        picks[list(variables)] = options.choice[pick - start][: len(variables)]
            reference = min((x for x in (value, known) if x is not None), default=None)
            if lists is None or (lower < math.inf if reference is None else local.gap(reference, lower) > PROVEN):
                seconds = max(1.0, deadline - time.perf_counter())
                reduced = local
                if lists is not None and value is not None:
                    reduced = _reduced(local, lists, knapsack.alive())
                whole = solve_milp(leaf.problem, reduced, limits, seconds)
                lower = max(lower, whole.bound if value is None else min(whole.bound, float(value)))
                if whole.value is not None and (value is None or whole.value < value):
                    value, picks = whole.value, whole.picks
            bound = min(bound, lower)
            if value is not None and (best is None or value < best[0]):
                assert evaluate(leaf.problem, local, picks)[0] == value
                widths = tuple(ls[i] for ls, i in zip(leaf.problem.levels, picks, strict=True))
                best = (value, widths)
        if best is None or objective is None:
            return None
        return Solution(best[1], self._excess(best[1]), objective.gap(best[0], min(bound, float(best[0]))))

    def _lists(self, lost: int) -> list[Listed]:
        """Options of every leaf, for an objective that leaves out ``lost`` leading bits."""
        if lost not in self._listed:
            ceiling = None if lost == 0 else self.largest * 2.0**-lost
            objective = make_objective(self.harms, self.problem.preference, ceiling)
            self._listed[lost] = _listed(self.problem, self.leaves, objective)
        return self._listed[lost]


def _reduced(objective: Objective, lists: Sequence[tuple[tuple[int, ...], Options]], alive: Mask) -> Objective:
    """The objective with only the levels that options worth choosing have."""
    possible = [np.zeros(len(p), dtype=bool) for p in objective.possible]
    start = 0
    for variables, options in lists:
        chosen = options.choice[alive[start : start + len(options)]]
        for i, v in enumerate(variables):
            possible[v][chosen[:, i]] = True
        start += len(options)
    return replace(objective, possible=tuple(possible))


def _leaves(problem: Problem) -> list[Leaf]:
    """Fix hubs until none is left; the problem itself where that would lead to too many."""
    whole = Leaf(problem)
    done: list[Leaf] = []
    waiting = [whole]
    failure: InvalidInput | None = None
    while waiting:
        leaf = waiting.pop()
        hub = leaf.hub()
        if hub is None:
            done.append(leaf)
            continue
        parts, error = _parts(leaf, hub)
        failure = error or failure
        waiting += parts
        if len(done) + len(waiting) > MOST_LEAVES:
            return [whole]
    if not done:
        assert failure is not None
        raise failure
    return done


def _parts(leaf: Leaf, hub: int) -> tuple[list[Leaf], InvalidInput | None]:
    """The problems with a hub at each of its levels, last level first, and why a level is impossible."""
    found: list[Leaf] = []
    failure: InvalidInput | None = None
    for level in reversed(range(len(leaf.problem.levels[hub]))):
        try:
            found.append(Leaf(leaf.problem.restricted(hub, level)))
        except InvalidInput as error:
            failure = error
    return found, failure


def _listed(top: Problem, leaves: list[Leaf], objective: Objective) -> list[Listed]:
    """List the options of all leaves; one with too many is split further, or left to the integer program."""
    found: list[Listed] = []
    for leaf in leaves:
        done: list[Listed] = []
        waiting = [leaf]
        while waiting:
            part = waiting.pop()
            local = part.local(top, objective)
            try:
                done.append((part, local, part.lists(local)))
            except TooManyOptions:
                hub = part.hub(most=1)
                if hub is None or len(top.metrics) > 1 or part.hub() is not None:
                    waiting, done = [], [(leaf, leaf.local(top, objective), None)]
                    break
                waiting += _parts(part, hub)[0]
            except InvalidInput:
                continue
            if len(done) + len(waiting) > MOST_LEAVES:
                waiting, done = [], [(leaf, leaf.local(top, objective), None)]
        found += done
    if not found:
        raise InvalidInput("the constraints leave no combination of widths; relax them")
    return found
