"""Options of a component: every choice for its variables that could be part of an optimum."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bitwright.search.objective import Objective
from bitwright.search.problem import Floats, Integers, Mask, Problem

ENUMERATED = 4096
"""Components with at most this many combinations are listed in full."""
LONGEST = 20_000
"""Longest list of options that is kept for one component with one cost; with several, a tenth of it."""
WIDEST = 1300
"""Most combinations of neighbours' levels that one elimination step goes through."""

Levels = npt.NDArray[np.int8]


def longest(metrics: int) -> int:
    """Longest list that is kept: comparing options takes longer with several costs, and fewer are beaten."""
    return LONGEST if metrics <= 1 else LONGEST // 10


class TooManyOptions(Exception):
    """A component has too many options to list."""


@dataclass(frozen=True)
class Options:
    """Choices for some variables, none of them beaten by another one in value and in every cost.

    Attributes:
        value: (n,) objective.
        cost: (n, M) costs.
        choice: (n, variables) position of the chosen level; -1 for variables that are not part of it.
    """

    value: Integers
    cost: Floats
    choice: Levels

    def __len__(self) -> int:
        return len(self.value)

    def take(self, which: npt.NDArray[np.intp] | Mask) -> Options:
        """Some of the options."""
        return Options(self.value[which], self.cost[which], self.choice[which])

    def pruned(self) -> Options:
        """Without the options that another one beats or equals; ascending first cost."""
        return self.take(undominated(self.value, self.cost))

    def plus(self, other: Options) -> Options:
        """Every combination of an option of this list with one of the other."""
        if len(self) * len(other) > 50 * longest(self.cost.shape[1]):
            raise TooManyOptions
        value = (self.value[:, None] + other.value[None, :]).ravel()
        cost = (self.cost[:, None, :] + other.cost[None, :, :]).reshape(len(value), -1)
        choice = np.maximum(self.choice[:, None, :], other.choice[None, :, :]).reshape(len(value), -1)
        return Options(value, cost, choice)


def undominated(value: Integers, cost: Floats) -> npt.NDArray[np.intp]:
    """Positions of the options that no other beats or equals in value and all costs, ascending first cost."""
    metrics = cost.shape[1]
    if metrics == 0:
        return np.array([np.argmin(value)], dtype=np.intp)
    if metrics == 1:
        order = np.lexsort((value, cost[:, 0]))
        best = np.minimum.accumulate(value[order])
        keep = np.ones(len(order), dtype=bool)
        keep[1:] = best[1:] < best[:-1]
        return order[keep]
    order = np.lexsort((*cost.T[::-1], value))
    if len(order) > 512:
        order = order[~_beaten_by_leaders(value[order], cost[order])]
    kept = order[:0]
    for start in range(0, len(order), 256):
        block = order[start : start + 256]
        beaten: Mask = np.any(np.all(cost[kept][None, :, :] <= cost[block][:, None, :], axis=2), axis=1)
        block = block[~beaten]
        within: Mask = np.all(cost[block][None, :, :] <= cost[block][:, None, :], axis=2)
        within &= np.tri(len(block), k=-1, dtype=bool)
        kept = np.concatenate([kept, block[~np.any(within, axis=1)]])
    return kept[np.argsort(cost[kept, 0], kind="stable")]


def _beaten_by_leaders(value: Integers, cost: Floats, leaders: int = 64) -> Mask:
    """Options that one of the most promising ones beats; of equal ones the first is kept."""
    height = float(value[-1] - value[0]) or 1.0
    width = np.maximum(np.ptp(cost, axis=0), 1e-300)
    promise = (value - value[0]) / height + ((cost - cost.min(axis=0)) / width).sum(axis=1)
    beaten = np.zeros(len(value), dtype=bool)
    for leader in np.argsort(promise, kind="stable")[:leaders]:
        if not beaten[leader]:
            beaten[leader + 1 :] |= np.all(cost[leader + 1 :] >= cost[leader], axis=1)
    return beaten


@dataclass(frozen=True)
class Grid:
    """All combinations of a small component with their costs; the part that no objective changes."""

    variables: tuple[int, ...]
    choice: Levels
    cost: Floats

    def options(self, objective: Objective) -> Options:
        """The options that an optimum may use."""
        value = np.zeros(len(self.choice), dtype=np.int64)
        keep = np.ones(len(self.choice), dtype=bool)
        for i, v in enumerate(self.variables):
            value += objective.values[v][self.choice[:, i]]
            if not objective.possible[v].all():
                keep &= objective.possible[v][self.choice[:, i]]
        if keep.all():
            return Options(value, self.cost, self.choice).pruned()
        return Options(value[keep], self.cost[keep], self.choice[keep]).pruned()


def combinations(problem: Problem, component: Sequence[int]) -> int:
    """Number of combinations of levels of a component."""
    return math.prod(len(problem.levels[v]) for v in component)


def grid(problem: Problem, component: tuple[int, ...]) -> Grid:
    """List a small component in full."""
    shape = tuple(len(problem.levels[v]) for v in component)
    choice = np.indices(shape, dtype=np.int8).reshape(len(shape), -1).T
    cost = np.zeros((len(choice), len(problem.metrics)))
    keep = np.ones(len(choice), dtype=bool)
    for i, v in enumerate(component):
        cost += problem.linear[v][choice[:, i]]
    place = {v: i for i, v in enumerate(component)}
    for (u, v), values in problem.pairs.items():
        if u in place and v in place:
            cost += values[choice[:, place[u]], choice[:, place[v]]]
    for (u, v), mask in problem.allowed.items():
        if u in place and v in place:
            keep &= mask[choice[:, place[u]], choice[:, place[v]]]
    return Grid(component, np.ascontiguousarray(choice[keep]), np.ascontiguousarray(cost[keep]))


_Factor = dict[tuple[int, ...], Options]


def eliminate(problem: Problem, component: tuple[int, ...], objective: Objective) -> Options:
    """List a large component by eliminating one variable after the other, keeping what is not beaten.

    Exact: a partial choice is dropped only when another one with the same levels at all remaining
    neighbours is at least as good in value and in every cost.

    Raises:
        TooManyOptions: the lists grow too long.
    """
    place = {v: i for i, v in enumerate(component)}
    factors: list[tuple[tuple[int, ...], _Factor]] = []
    for v in component:
        factors.append(((v,), _unary(problem, v, objective, place)))
    for edge in problem.edges:
        if edge[0] in place:
            factors.append((edge, _pair(problem, edge, len(component))))
    remaining = list(component)
    while remaining:
        neighbours = {v: sorted({u for scope, _ in factors if v in scope for u in scope} - {v}) for v in remaining}
        variable = min(remaining, key=lambda v: (math.prod(len(problem.levels[u]) for u in neighbours[v]), v))
        used = [factor for factor in factors if variable in factor[0]]
        factors = [factor for factor in factors if variable not in factor[0]]
        factors.append(_eliminated(problem, variable, neighbours[variable], used))
        remaining.remove(variable)
    result = factors[0][1]
    for _, other in factors[1:]:
        result = {(): result[()].plus(other[()]).pruned()}
    return result[()]


def _unary(problem: Problem, v: int, objective: Objective, place: dict[int, int]) -> _Factor:
    factor: _Factor = {}
    for level in range(len(problem.levels[v])):
        if objective.possible[v][level]:
            choice = np.full((1, len(place)), -1, dtype=np.int8)
            choice[0, place[v]] = level
            value = objective.values[v][level : level + 1]
            factor[(level,)] = Options(value, problem.linear[v][level : level + 1], choice)
    return factor


def _pair(problem: Problem, edge: tuple[int, int], width: int) -> _Factor:
    factor: _Factor = {}
    shape = (len(problem.levels[edge[0]]), len(problem.levels[edge[1]]))
    cost = problem.pairs.get(edge)
    mask = problem.allowed.get(edge)
    for at in np.ndindex(shape):
        if mask is None or mask[at]:
            c = np.zeros(len(problem.metrics)) if cost is None else cost[at]
            factor[at] = Options(np.zeros(1, dtype=np.int64), c[None, :], np.full((1, width), -1, dtype=np.int8))
    return factor


def _eliminated(
    problem: Problem, variable: int, scope: list[int], used: list[tuple[tuple[int, ...], _Factor]]
) -> tuple[tuple[int, ...], _Factor]:
    sizes = [range(len(problem.levels[u])) for u in scope]
    if math.prod(len(s) for s in sizes) > WIDEST:
        raise TooManyOptions
    result: _Factor = {}
    used = sorted(used, key=lambda f: max((len(o) for o in f[1].values()), default=0))
    for at in itertools.product(*sizes):
        levels = dict(zip(scope, at, strict=True))
        found = []
        for level in range(len(problem.levels[variable])):
            levels[variable] = level
            parts = [factor.get(tuple(levels[u] for u in names)) for names, factor in used]
            if any(part is None for part in parts):
                continue
            options = parts[0]
            assert options is not None
            for part in parts[1:]:
                assert part is not None
                options = options.plus(part)
                if len(part) > 1:
                    options = options.pruned()
            found.append(options)
        if found:
            joined = Options(
                np.concatenate([o.value for o in found]),
                np.concatenate([o.cost for o in found]),
                np.concatenate([o.choice for o in found]),
            ).pruned()
            if len(joined) > longest(len(problem.metrics)):
                raise TooManyOptions
            result[at] = joined
    return tuple(scope), result
