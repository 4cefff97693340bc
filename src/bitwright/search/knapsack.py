"""Exact choice of one option from each list under one or several budgets.

The lists are a multiple-choice knapsack. Its Lagrangian dual gives a bound; options whose reduced cost
exceeds the distance between the bound and a known solution cannot be part of an optimum (Pisinger, A minimal
algorithm for the multiple-choice knapsack problem, EJOR 1995); dynamic programming over what remains finds the
optimum, cut down by bounds from several multipliers and by dominance. Where too many partial choices
remain, only the most promising are kept and the smallest bound of the dropped ones is remembered, so that
the result always comes with a proven bound.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bitwright.search.objective import Objective
from bitwright.search.options import Options, undominated
from bitwright.search.problem import Floats, Integers, Mask

BEAMS = (256, 2048, 16_384, 131_072)
"""Partial choices kept at each step; the next one is tried while optimality is not proven."""
CLOSED = 1e-7
"""Relative gap at which a search stops trying."""

Positions = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Chosen:
    """The result of a search.

    Attributes:
        value: objective of the choice, or None when no feasible choice was found.
        picks: for each list the position of the chosen option.
        bound: proven: no choice has an objective below it; infinite when nothing is feasible.
    """

    value: int | None
    picks: Positions
    bound: float


class Knapsack:
    """Lists of options under limits.

    Args:
        lists: options; one of each is chosen.
        limits: (M,) what the costs of the chosen options may sum to; infinite for no limit.
    """

    def __init__(self, lists: Sequence[Options], limits: Floats) -> None:
        self.lists = lists
        self.limits = limits
        self.finite = np.where(np.isfinite(limits), limits, 0.0)
        sizes = np.array([len(options) for options in lists])
        self.starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.intp)
        self.owner = np.repeat(np.arange(len(lists)), sizes)
        self.value: Integers = np.concatenate([options.value for options in lists])
        self.cost: Floats = np.concatenate([options.cost for options in lists])
        self.slack = 1e-12 * np.where(np.isfinite(limits), np.abs(limits), 1.0)
        self.smallest = np.minimum.reduceat(self.cost, self.starts, axis=0)
        self.weights: list[Floats] = []
        self.best: int | None = None
        self.picks = self.starts.copy()
        self.bound = -np.inf

    def solve(self, objective: Objective, known: int | None = None, deadline: float = np.inf) -> Chosen:
        """Find the choice of smallest value.

        Args:
            objective: that the values come from, to tell harm from tie-break.
            known: value of a solution found elsewhere: only smaller ones are of interest.
            deadline: ``time.perf_counter()`` after which no wider search is begun.
        """
        if (self.smallest.sum(axis=0) > self.limits + self.slack).any():
            return Chosen(None, self.picks, np.inf)
        self._dual()
        self._improve()
        for beam in BEAMS if len(self.limits) == 1 else BEAMS[:1]:
            below = min((x for x in (self.best, known) if x is not None), default=None)
            if below is not None and self.bound > below - 1:
                break
            reached = self._sweep(beam, below, deadline)
            self.bound = max(self.bound, reached)
            if self.best is not None and objective.gap(self.best, self.bound) <= CLOSED:
                break
            if time.perf_counter() > deadline:
                break
        return Chosen(self.best, self.picks, self.bound)

    def alive(self) -> Mask:
        """For each option of all lists whether it may be part of a choice better than the best known."""
        best = np.inf if self.best is None else self.best * (1.0 + 1e-9)
        return np.asarray(self._reduced(self._multipliers())[0] <= best)

    def _reduced(self, weights: Floats) -> tuple[Floats, Floats, Floats]:
        """A bound for each option on what a choice with it can have, each list's least, and the bound of the rest."""
        penalised = self.value[:, None] + self.cost @ weights.T
        least = np.minimum.reduceat(penalised, self.starts, axis=0)
        base = least.sum(axis=0) - weights @ self.finite
        return ((penalised - least[self.owner]) + base).max(axis=1), least, base

    def _choose(self, weights: Floats) -> tuple[Positions, float, Floats]:
        """Best options under multipliers: positions, their value, their (M,) cost; also updates the bound."""
        penalty = self.cost @ weights if weights.any() else 0.0
        penalised = self.value + penalty
        best = np.minimum.reduceat(penalised, self.starts)
        hits = np.flatnonzero(penalised == best[self.owner])
        owners = self.owner[hits]
        first = np.ones(len(hits), dtype=bool)
        first[1:] = owners[1:] != owners[:-1]
        picks = hits[first]
        spent = weights @ self.finite
        bound = float(best.sum() - spent) - 1e-12 * float(np.abs(best).sum() + abs(spent))
        self.weights.append(weights)
        if bound > self.bound:
            self.bound, self.at = bound, weights
        cost = self.cost[picks].sum(axis=0)
        self._offer(picks, cost)
        return picks, float(self.value[picks].sum()), cost

    def _offer(self, picks: Positions, cost: Floats) -> None:
        if (cost <= self.limits + self.slack).all():
            value = int(self.value[picks].sum())
            if self.best is None or value < self.best:
                self.best, self.picks = value, picks.copy()

    def _dual(self) -> None:
        """Maximise the Lagrangian bound."""
        metrics = len(self.limits)
        _, value, cost = self._choose(np.zeros(metrics))
        if (cost <= self.limits + self.slack).all():
            return
        cuts = [(value, cost)]
        for j in range(metrics):
            if cost[j] > self.limits[j]:
                cuts += self._single(j, value, cost)
        if metrics > 1:
            self._planes(cuts)

    def _single(self, j: int, value: float, cost: Floats) -> list[tuple[float, Floats]]:
        """The exact multiplier of one budget alone, by intersecting supporting lines."""
        order = np.lexsort((self.value, self.cost[:, j], self.owner))
        small = order[self.starts]
        low = (float(self.value[small].sum()), self.cost[small].sum(axis=0))
        self._offer(small, low[1])
        high = (value, cost)
        seen = [low]
        weights = np.zeros(len(self.limits))
        for _ in range(100):
            run = high[1][j] - low[1][j]
            if not run > 0:
                break
            weights = weights.copy()
            weights[j] = (low[0] - high[0]) / run
            line = low[0] + weights[j] * low[1][j]
            _, v, c = self._choose(weights)
            seen.append((v, c))
            if v + weights[j] * c[j] >= line - 1e-13 * abs(line):
                break
            if c[j] <= self.limits[j]:
                low = (v, c)
            else:
                high = (v, c)
        return seen

    def _planes(self, cuts: list[tuple[float, Floats]]) -> None:
        """The multipliers of several budgets together, by Kelley's cutting planes."""
        from scipy.optimize import linprog

        finite = np.isfinite(self.limits)
        scale = np.where(finite & (self.limits > 0.0), self.limits, 1.0)
        height = max(abs(v) for v, _ in cuts) or 1.0
        ceiling = 1e6
        for _ in range(60):
            rows = np.array([np.concatenate([[1.0], -(c - self.finite) / scale * finite]) for _, c in cuts])
            right = np.array([v / height for v, _ in cuts])
            bounds = [(None, None), *((0.0, ceiling if f else 0.0) for f in finite)]
            target = np.zeros(len(scale) + 1)
            target[0] = -1.0
            result = linprog(target, A_ub=rows, b_ub=right, bounds=bounds, method="highs")
            if result.status != 0:
                return
            weights = np.maximum(result.x[1:], 0.0) * height / scale
            before = self.bound
            _, v, c = self._choose(weights)
            cuts.append((v, c))
            if -result.fun * height - max(before, self.bound) <= 1e-9 * height:
                return

    def _improve(self) -> None:
        """Spend what is left of the budgets: single changes, the best first."""
        if self.best is None:
            return
        picks = self.picks.copy()
        while True:
            cost = self.cost[picks].sum(axis=0)
            change = self.value - self.value[picks][self.owner]
            fits = ((self.cost - self.cost[picks][self.owner]) <= self.limits - cost + self.slack).all(axis=1)
            change = np.where(fits, change, 0)
            best = int(np.argmin(change))
            if change[best] >= 0:
                break
            picks[self.owner[best]] = best
        self._offer(picks, self.cost[picks].sum(axis=0))

    def _multipliers(self) -> Floats:
        """(T, M) multipliers around the best one, for bounds on partial choices."""
        if not self.at.any():
            return np.array([self.at])
        spread = (1.0, 0.97, 1.03, 0.9, 1.1, 0.75, 1.3, 0.5, 1.8)
        found = [self.at * f for f in spread]
        active = np.flatnonzero(self.at)
        if len(active) > 1:
            for j in active:
                for factor in (0.5, 0.85, 0.95, 1.05, 1.15, 1.8):
                    other = self.at.copy()
                    other[j] *= factor
                    found.append(other)
        return np.array(found)

    def _sweep(self, beam: int, below: int | None, deadline: float) -> float:
        """Dynamic programming over the lists; offers what it finds and returns a proven bound.

        The bound is the smallest value that any choice cheaper than the best known can have.
        """
        weights = self._multipliers() * np.isfinite(self.limits)
        reduced, least, base = self._reduced(weights)
        target = np.inf if below is None else float(below - 1)
        margin = 1e-11 * float(np.abs(least).sum(axis=0).max() + np.abs(weights @ self.finite).max())
        alive = reduced <= target + margin
        ends = [*self.starts[1:], len(self.value)]
        kept = [np.flatnonzero(alive[s:e]) + s for s, e in zip(self.starts, ends, strict=True)]
        if any(len(k) == 0 for k in kept):
            return target + 1.0
        cheapest = np.array([self.cost[k].min(axis=0) for k in kept])
        spans = np.array([np.ptp(self.cost[k] @ weights[0]) if len(k) > 1 else -1.0 for k in kept])
        order = np.argsort(-spans, kind="stable")
        rest_least = base.copy()
        rest_cheap = cheapest.sum(axis=0)
        values = np.zeros(1, dtype=np.int64)
        costs = np.zeros((1, len(self.limits)))
        trail: list[tuple[Positions, Positions]] = []
        dropped = np.inf
        for c in order:
            k = kept[c]
            rest_least = rest_least - least[c]
            rest_cheap = rest_cheap - cheapest[c]
            new_values = (values[:, None] + self.value[k][None, :]).ravel()
            new_costs = (costs[:, None, :] + self.cost[k][None, :, :]).reshape(-1, costs.shape[1])
            index = np.arange(len(new_values))
            if len(k) > 1 or len(new_values) > 1:
                fits = (new_costs + rest_cheap <= self.limits + self.slack * 2).all(axis=1)
                bounds = ((new_values[:, None] + new_costs @ weights.T) + rest_least).max(axis=1)
                index = np.flatnonzero(fits & (bounds <= target + margin))
                index = index[_undominated(new_values[index], new_costs[index], bounds[index])]
                if len(index) > beam:
                    rank = np.argsort(bounds[index], kind="stable")
                    dropped = min(dropped, float(bounds[index[rank[beam]]]) - margin)
                    index = np.sort(index[rank[:beam]])
            if len(index) == 0:
                return min(dropped, target + 1.0)
            values, costs = new_values[index], new_costs[index]
            trail.append((index // len(k), k[index % len(k)]))
            if beam > BEAMS[0] and time.perf_counter() > deadline:
                return -np.inf
        fits = (costs <= self.limits + self.slack).all(axis=1)
        if fits.any():
            best = int(np.flatnonzero(fits)[np.argmin(values[fits])])
            picks = self.starts.copy()
            for c, (parents, chosen) in zip(order[::-1], trail[::-1], strict=True):
                picks[c] = chosen[best]
                best = int(parents[best])
            self._offer(picks, self.cost[picks].sum(axis=0))
        return min(dropped, float(self.best) if self.best is not None and self.best < target + 1.0 else target + 1.0)


def _undominated(values: Integers, costs: Floats, bounds: Floats) -> Positions:
    """Partial choices worth going on with; with several costs only some of the beaten ones are found."""
    if costs.shape[1] == 1 or len(values) <= 1500:
        return undominated(values, costs) if len(values) else np.arange(0)
    beaten = np.zeros(len(values), dtype=bool)
    for leader in np.argsort(bounds, kind="stable")[:48]:
        if not beaten[leader]:
            worse = (values >= values[leader]) & (costs >= costs[leader]).all(axis=1)
            worse[leader] = False
            beaten |= worse
    return np.flatnonzero(~beaten)
