"""Search: the best policy under each budget, or the whole Pareto front."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np

from bitwright.cost import COSTS, CostModel, costs_for, human, keeps, parse_budgets
from bitwright.errors import ImpossibleBudget, InvalidInput, PolicyMismatch, nearest
from bitwright.search.constraints import Constraints
from bitwright.search.problem import Problem, build_problem
from bitwright.search.solver import Leaf, Solution, Solver
from bitwright.settings import DEFAULTS, MOST_POINTS
from bitwright.values import Budget, Candidate, Front, Policy, SensitivityTable, Sites

Budgets = str | Budget | Sequence[str | Budget | Sequence[str | Budget]]

_ROUNDS = 10
"""Most linear programs in a sequence from one start."""


@runtime_checkable
class HasSites(Protocol):
    """A captured graph, as far as search looks at it."""

    @property
    def sites(self) -> Sites:
        """Its sites."""


def sites_of(graph: Sites | HasSites) -> Sites:
    """The sites of a graph, or the sites themselves."""
    return graph if isinstance(graph, Sites) else graph.sites


def search(
    graph: Sites | HasSites,
    table: SensitivityTable,
    *,
    cost: str | CostModel = DEFAULTS.cost,
    budgets: Budgets | None = None,
    constraints: Constraints | None = None,
    points: int = DEFAULTS.points,
    time_limit: float = 60.0,
    costs: Mapping[str, CostModel] | None = None,
) -> Front:
    """Find the policies with the smallest predicted harm under budgets.

    Exact: for a table whose harms add up, no policy within the budgets has a smaller predicted harm,
    and each candidate says how far that is proven. For a table with a margin model, whose predictions do not
    add up, a sequence of exact searches on the table linearized around the last solution goes on until
    the prediction no longer improves; the proof is for the linearized table. Scores may have any unit,
    magnitude and sign. Of policies with equal predicted harm the one with more bits wins (the smallest
    sum over sites of k(k+1)/2, where k counts the wider widths that the site could have had), so
    no budget stays unused without a reason.

    Args:
        graph: a captured graph, or its sites.
        table: predicted harm by site and width. Sites that it does not cover stay in float.
        cost: the metric of the front's horizontal axis, and of the budgets where none are given; or a
            cost model of your own.
        budgets: for each candidate a text such as ``"bops=W4A4"`` or ``"bops=W4A4, size=60%"`` (all
            hold at once), a :class:`~bitwright.values.Budget`, or a list of these; None: the whole Pareto front.
        constraints: what the hardware allows.
        points: budgets of a whole front, between the smallest and the largest cost.
        time_limit: seconds for each candidate; one that runs out is the best found so far, with its gap.
        costs: further cost models by metric, e.g. ``{"latency": Latency(...)}``, and those for another runtime than the
            default, ``costs_for("none")``.

    Returns:
        One candidate for each entry of ``budgets``, in order; or the Pareto front by ascending cost,
        without dominated candidates.

    Raises:
        ImpossibleBudget: nothing fits; says what the smallest possible is.
        InvalidInput: a budget that cannot be read, or constraints that contradict each other.
        PolicyMismatch: table and sites come from different graphs.
    """
    sites = sites_of(graph)
    models = {**costs_for(), **(costs or {})}
    if isinstance(cost, str):
        if cost not in models:
            raise InvalidInput(f"unknown cost '{cost}'; known are: {', '.join(models)}{nearest(cost, models)}")
        axis = cost
    else:
        axis = cost.name
        models[axis] = cost
    if not isinstance(points, int) or not 2 <= points <= MOST_POINTS:
        raise InvalidInput(f"points must be a whole number from 2 to {MOST_POINTS}, got {points!r}")
    if not time_limit > 0:
        raise InvalidInput(f"time_limit must be above 0 seconds, got {time_limit}")
    _check(sites, table)
    searcher = _Searcher(sites, table, models, constraints or Constraints(), time_limit)
    if budgets is None:
        found = _whole(searcher, axis, points)
    else:
        entries = [budgets] if isinstance(budgets, str | Budget) else list(budgets)
        if not entries:
            raise InvalidInput("budgets is empty; leave it out to get the whole Pareto front")
        asked = [parse_budgets(entry, sites, models) for entry in entries]
        found = [searcher.candidate(limits, axis) for limits in asked]
    return Front(tuple(found), table.method, table.unit, axis)


def _check(sites: Sites, table: SensitivityTable) -> None:
    if sites.graph_hash and table.graph_hash and sites.graph_hash != table.graph_hash:
        raise PolicyMismatch(
            f"the sensitivity table was made for graph {table.graph_hash}, this graph is {sites.graph_hash}; "
            "make the table again for this graph"
        )
    for name in table.sites:
        if name not in sites:
            raise PolicyMismatch(
                f"the sensitivity table has site '{name}', which this graph does not have{nearest(name, sites.names)}"
            )


def _whole(searcher: _Searcher, axis: str, points: int) -> list[Candidate]:
    """The Pareto front: budgets from the smallest cost to that of the least harm, without dominated ones."""
    low, high = searcher.span(axis)
    if low > 0:
        limits = np.geomspace(low, max(low, high), points)
    else:
        limits = np.linspace(low, max(low, high), points)
    limits[0], limits[-1] = low, max(low, high)
    unit = searcher.models[axis].unit
    found: list[Candidate] = []
    for limit in dict.fromkeys(float(x) for x in limits):
        try:
            candidate = searcher.candidate((Budget(axis, limit, f"{axis}={human(limit, unit)}"),), axis)
        except ImpossibleBudget:
            continue
        found.append(candidate)
    kept: list[Candidate] = []
    for candidate in sorted(found, key=lambda c: (c.costs[axis], c.predicted)):
        if not kept or candidate.predicted < kept[-1].predicted:
            kept.append(candidate)
    return kept


@dataclass
class _Found:
    policy: Policy
    predicted: float
    solution: Solution


class _Searcher:
    """What candidates of one search share: problems by metrics, listed options, the last solution."""

    def __init__(
        self,
        sites: Sites,
        table: SensitivityTable,
        models: Mapping[str, CostModel],
        constraints: Constraints,
        time_limit: float,
    ) -> None:
        self.sites, self.table, self.models = sites, table, models
        self.constraints, self.time_limit = constraints, time_limit
        self._solvers: dict[tuple[str, ...], Solver] = {}
        self._last: _Found | None = None

    def solver(self, metrics: tuple[str, ...]) -> Solver:
        """The solver for the table's own harms, which add up."""
        if metrics not in self._solvers:
            models = [self.models[m] for m in metrics]
            problem = build_problem(self.sites, self.table, models, self.constraints)
            self._solvers[metrics] = Solver(problem, problem.harms(self.table))
        return self._solvers[metrics]

    def span(self, metric: str) -> tuple[float, float]:
        """The smallest cost of any policy, and the cost of the policy with the least harm."""
        solver = self.solver((metric,))
        best = solver.solve(np.array([np.inf]), self.time_limit)
        assert best is not None
        policy = solver.problem.policy(best.widths, self.sites)
        return float(solver.smallest()[0]), self.models[metric].of(policy, self.sites)

    def candidate(self, budgets: Sequence[Budget], axis: str) -> Candidate:
        """The best policy under budgets that hold at once."""
        metrics = tuple(dict.fromkeys(b.metric for b in budgets))
        limits = np.array([min(b.limit for b in budgets if b.metric == m) for m in metrics])
        solver = self.solver(metrics)
        solution = solver.solve(limits, self.time_limit)
        if solution is None:
            raise self._impossible(solver, budgets, metrics, limits)
        name = ", ".join(b.text or f"{b.metric}={human(b.limit, self.models[b.metric].unit)}" for b in budgets)
        found = self._found(solver.problem, solution, name)
        if self.table.margin is not None:
            found = self._sequence(solver, limits, found, name, metrics)
            self._last = found
        wanted = dict.fromkeys([*COSTS, axis, *metrics])
        values = {m: self.models[m].of(found.policy, self.sites) for m in wanted}
        used = {m: min(1.0, values[m] / limit) for m, limit in zip(metrics, limits.tolist(), strict=True) if limit > 0}
        return Candidate(
            found.policy,
            found.predicted,
            values,
            tuple(budgets),
            found.solution.optimal,
            found.solution.gap,
            used,
        )

    def _found(self, problem: Problem, solution: Solution, name: str) -> _Found:
        policy = problem.policy(solution.widths, self.sites, name)
        return _Found(policy, self.table.predict(policy), solution)

    def _sequence(self, solver: Solver, limits: np.ndarray, first: _Found, name: str, metrics: Sequence[str]) -> _Found:
        """Exact searches on tables linearized around the last solution, from several starts."""
        starts = [first]
        if self._last is not None:
            tightest = [Budget(m, limit) for m, limit in zip(metrics, limits.tolist(), strict=True)]
            fits = keeps(self._last.policy, tightest, self.sites, self.models)
            renamed = Policy(self._last.policy.bits, self._last.policy.graph_hash, name)
            # What was proven for it holds under the last budgets, not under these.
            last = _Found(renamed, self._last.predicted, replace(self._last.solution, gap=1.0))
            starts.append(last)
            best = last if fits and last.predicted < first.predicted else first
        else:
            best = first
        tried: set[Policy] = set()
        leaves: list[Leaf] = solver.leaves
        for start in starts:
            current = start
            for _ in range(_ROUNDS):
                if current.policy in tried:
                    break
                tried.add(current.policy)
                harms = solver.problem.harms(self.table.linearized(current.policy))
                if not max((float(h.max()) for h in harms), default=0.0) > 0.0:
                    break
                linear = Solver(solver.problem, harms, leaves)
                solution = linear.solve(limits, self.time_limit)
                if solution is None:
                    break
                if best.policy == current.policy and best.solution.gap == 1.0:
                    best = replace(best, solution=linear.proven(best.solution.widths, solution))
                found = self._found(solver.problem, solution, name)
                if found.predicted < best.predicted or (
                    found.policy == best.policy and found.solution.gap <= best.solution.gap
                ):
                    best = found
                if found.predicted >= current.predicted and current is not start:
                    break
                current = found
        return best

    def _impossible(
        self, solver: Solver, budgets: Sequence[Budget], metrics: Sequence[str], limits: np.ndarray
    ) -> ImpossibleBudget:
        smallest = solver.smallest()
        texts = {m: self._text(m, float(limit), budgets) for m, limit in zip(metrics, limits, strict=True)}
        short = [
            f"{texts[m]} was asked for, the smallest possible is {self._amount(m, float(value))}"
            for m, value, limit in zip(metrics, smallest, limits, strict=True)
            if value > limit * (1 + 1e-12)
        ]
        bits = sorted({b for ls in solver.problem.levels for b in ls if b is not None})
        out = (
            f"raise the budget, allow fewer bits than {bits[0]}, or relax the constraints"
            if bits
            else ("raise the budget")
        )
        if short:
            return ImpossibleBudget(f"no policy fits: {'; '.join(short)}; {out}")
        reached = solver.smallest_within(0, limits)
        message = f"no policy fits all of {', '.join(texts.values())} at once, though each alone is possible"
        if reached is not None:
            others = ", ".join(texts[m] for m in metrics[1:])
            message += f"; within {others} the smallest possible is {self._amount(metrics[0], reached)}"
        return ImpossibleBudget(f"{message}; raise one of them")

    def _amount(self, metric: str, value: float) -> str:
        model = self.models[metric]
        text = f"{metric}={human(value, model.unit, round_up=True)}"
        try:
            whole = model.of(Policy(), self.sites)
        except InvalidInput:
            return text
        if not whole > 0:
            return text
        return f"{text} ({math.ceil(value / whole * 1e4) / 1e2:.2f}% of float32)"

    def _text(self, metric: str, limit: float, budgets: Iterable[Budget]) -> str:
        amount = f"{metric}={human(limit, self.models[metric].unit)}"
        text = next((b.text for b in budgets if b.metric == metric and b.limit == limit and b.text), amount)
        return text if text == amount else f"{text} ({human(limit, self.models[metric].unit)})"
