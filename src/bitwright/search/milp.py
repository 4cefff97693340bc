"""The problem as a mixed integer program for HiGHS: for graphs whose sites are too entangled to list options.

The relaxation is tight: a product of two choices is one variable, linked by sums to both of them, so that
trees of operations have whole-numbered corners.
"""

from __future__ import annotations

import ctypes
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from bitwright.search.knapsack import Chosen
from bitwright.search.objective import Objective
from bitwright.search.problem import Floats, Problem

_SCALE = 1e4
"""Largest coefficient of a row or of the objective, so that the solver's absolute tolerances are relative ones."""


def solve_milp(problem: Problem, objective: Objective, limits: Floats, time_limit: float = 60.0) -> Chosen:
    """Minimise the objective under limits.

    Args:
        problem: variables, costs and what is allowed.
        objective: for the variables and levels of ``problem``.
        limits: (M,) for the costs without ``problem.constant``.
        time_limit: in seconds.

    Returns:
        The chosen level of each variable as ``picks``, with a proven bound.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_array

    starts = np.concatenate([[0], np.cumsum([len(ls) for ls in problem.levels])]).astype(int)
    choices = int(starts[-1])
    top = max(float(v.max()) for v in objective.values) or 1.0
    target = [np.concatenate([v / top * _SCALE for v in objective.values])]
    upper = [np.concatenate([p.astype(float) for p in objective.possible])]
    cost = [np.concatenate(problem.linear)]
    entries: list[tuple[int, int, float]] = []
    right: list[float] = []
    for v in range(len(problem.levels)):
        entries += [(v, int(starts[v]) + i, 1.0) for i in range(len(problem.levels[v]))]
        right.append(1.0)
    position = choices
    for u, v in problem.edges:
        shape = (len(problem.levels[u]), len(problem.levels[v]))
        product = position + np.arange(shape[0] * shape[1]).reshape(shape)
        for side, at in ((u, product), (v, product.T)):
            for i, members in enumerate(at):
                row = len(right)
                right.append(0.0)
                entries += [(row, int(p), 1.0) for p in members] + [(row, int(starts[side]) + i, -1.0)]
        mask = problem.allowed.get((u, v))
        upper.append(np.ones(product.size) if mask is None else mask.astype(float).ravel())
        pair = problem.pairs.get((u, v))
        cost.append(np.zeros((product.size, len(limits))) if pair is None else pair.reshape(product.size, -1))
        target.append(np.zeros(product.size))
        position += product.size
    rows, columns, numbers = zip(*entries, strict=True)
    equal = coo_array((numbers, (rows, columns)), shape=(len(right), position)).tocsr()
    costs = np.concatenate(cost)
    integrality = np.zeros(position)
    integrality[:choices] = 1
    finite = np.flatnonzero(np.isfinite(limits))
    tightened = limits.copy()
    bound = -np.inf
    for attempt in range(4):
        scale = _SCALE / np.where(limits[finite] > 0.0, limits[finite], 1.0)
        constraints = [LinearConstraint(equal, right, right)]
        if len(finite):
            constraints.append(LinearConstraint(costs[:, finite].T * scale[:, None], ub=tightened[finite] * scale))
        with _quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = milp(
                np.concatenate(target),
                integrality=integrality,
                bounds=Bounds(0.0, np.concatenate(upper)),
                constraints=constraints,
                options={"mip_rel_gap": 1e-9, "time_limit": time_limit},
            )
        if attempt == 0:
            if result.status == 2:
                return Chosen(None, np.zeros(0, dtype=np.intp), np.inf)
            dual = getattr(result, "mip_dual_bound", None)
            bound = -np.inf if dual is None else float(dual) * top / _SCALE * (1 - 1e-9)
        if result.x is None:
            break
        picks = _levels(result.x, starts)
        value, spent = evaluate(problem, objective, picks)
        over = spent - limits
        if (over <= 1e-12 * np.abs(limits)).all():
            return Chosen(value, picks, min(bound, float(value)))
        tightened = np.where(over > 0, limits - 4.0**attempt * np.maximum(over, 1e-9 * np.abs(limits)), limits)
    return Chosen(None, np.zeros(0, dtype=np.intp), bound)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep standard output clean: HiGHS 1.12 prints a line of its own for some incumbents, whatever its options say."""
    try:
        sys.stdout.flush()
        library = ctypes.CDLL(None)
        saved = os.dup(1)
    except (OSError, TypeError, ValueError, AttributeError):
        yield
        return
    try:
        library.fflush(None)
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        library.fflush(None)
        os.dup2(saved, 1)
        os.close(saved)


def _levels(x: Floats, starts: npt.NDArray[np.int_]) -> npt.NDArray[np.intp]:
    pairs = zip(starts[:-1], starts[1:], strict=True)
    return np.array([int(np.argmax(x[s:e])) for s, e in pairs], dtype=np.intp)


def evaluate(problem: Problem, objective: Objective, picks: npt.NDArray[np.intp]) -> tuple[int, Floats]:
    """The objective and the (M,) costs, without the constant, of a level for each variable."""
    value = sum(int(objective.values[v][i]) for v, i in enumerate(picks))
    cost = np.zeros(len(problem.metrics))
    for v, i in enumerate(picks):
        cost += problem.linear[v][i]
    for (u, v), values in problem.pairs.items():
        cost += values[picks[u], picks[v]]
    return value, cost
