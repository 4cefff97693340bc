"""Search against trying every policy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitwright.errors import BitwrightError, ImpossibleBudget
from bitwright.search import Constraints, search
from bitwright.search import knapsack as knapsack_module
from bitwright.search import options as options_module
from bitwright.search import solver as solver_module
from bitwright.search.knapsack import Chosen
from bitwright.search.milp import solve_milp
from bitwright.search.objective import make_objective
from bitwright.search.problem import build_problem
from bitwright.values import Budget, Policy, SensitivityTable, Sites

from .conftest import MODELS, every_policy, make_sites, make_table

STYLES = ("decay", "noisy", "ties", "zeros")
SETTINGS = settings(max_examples=40, deadline=None, derandomize=True)


def preference(policy: Policy, bits: tuple[int, ...]) -> int:
    """The documented tie-break."""
    wider = [sum(other > b for other in bits) for b in policy.bits.values()]
    return sum(k * (k + 1) // 2 for k in wider)


def brute_force(
    table: SensitivityTable, policies: list[Policy], sites: Sites, limits: dict[str, float]
) -> tuple[float, int] | None:
    """Smallest (harm, tie-break) within limits."""
    fitting = [p for p in policies if all(MODELS[m].of(p, sites) <= x for m, x in limits.items())]
    if not fitting:
        return None
    least = min(table.predict(p) for p in fitting)
    tied = [p for p in fitting if table.predict(p) <= least + 1e-9 * max(1e-9, abs(least))]
    return least, min(preference(p, table.bits) for p in tied)


def case(seed: int) -> tuple[Sites, SensitivityTable, dict[str, float]]:
    rng = np.random.default_rng(seed)
    bits = (2, 4, 8) if rng.random() < 0.5 else (2, 3, 5, 6)
    sites = make_sites(rng, int(rng.integers(2, 6)), 6)
    while len(sites) > 6:
        sites = make_sites(rng, 2, 6)
    table = make_table(rng, sites, bits, STYLES[seed % 4])
    metrics = [["bops"], ["size"], ["bops", "size"]][int(rng.integers(3))]
    limits = {}
    for m in metrics:
        low = MODELS[m].of(Policy.uniform(sites, bits[0], bits[0]), sites)
        high = MODELS[m].of(Policy.uniform(sites, bits[-1], bits[-1]), sites)
        limits[m] = max(low + (high - low) * rng.uniform(-0.05, 1.0), 1.0)
    return sites, table, limits


def check(seed: int, tie_break: bool = True) -> None:
    sites, table, limits = case(seed)
    expected = brute_force(table, every_policy(sites, table.bits), sites, limits)
    budgets = [Budget(m, x) for m, x in limits.items()]
    if expected is None:
        with pytest.raises(ImpossibleBudget):
            search(sites, table, budgets=[budgets])
        return
    (found,) = search(sites, table, budgets=[budgets])
    assert found.predicted == pytest.approx(expected[0], rel=1e-9, abs=1e-12)
    assert found.optimal
    assert found.gap <= 1e-6
    assert found.predicted == table.predict(found.policy)
    for m, limit in limits.items():
        assert found.costs[m] == MODELS[m].of(found.policy, sites) <= limit
        assert found.used[m] == pytest.approx(found.costs[m] / limit)
    if tie_break:
        assert preference(found.policy, table.bits) == expected[1]


def counted(monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> list[int]:
    """Grow the returned list by one with each call of a function."""
    calls: list[int] = []
    original: Any = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, call)
    return calls


@given(st.integers(0, 10**6))
@SETTINGS
def test_the_optimum_of_small_graphs(seed: int) -> None:
    check(seed)


@pytest.mark.parametrize("seed", range(40))
def test_the_optimum_by_eliminating_variables(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solver_module, "ENUMERATED", 1)
    eliminated = counted(monkeypatch, solver_module, "eliminate")
    check(seed)
    assert eliminated


def test_the_optimum_by_fixing_hubs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solver_module, "ENUMERATED", 6)
    monkeypatch.setattr(solver_module.Leaf.hub, "__defaults__", (0,))
    restricted = counted(monkeypatch, solver_module.Problem, "restricted")
    for seed in range(40):
        check(seed)
    assert len(restricted) > 100


def test_the_optimum_when_options_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solver_module, "ENUMERATED", 1)
    monkeypatch.setattr(options_module, "LONGEST", 3)
    programs = counted(monkeypatch, solver_module, "solve_milp")
    for seed in range(30):
        monkeypatch.setattr(solver_module, "MOST_LEAVES", 1 + seed % 3 * 4)
        check(seed, tie_break=False)
    assert len(programs) > 5


@pytest.mark.parametrize("seed", range(40))
def test_the_optimum_when_partial_choices_are_dropped(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knapsack_module, "BEAMS", (1, 2))
    check(seed, tie_break=False)


@pytest.mark.parametrize("seed", range(30))
def test_the_integer_program_agrees(seed: int) -> None:
    sites, table, limits = case(seed)
    expected = brute_force(table, every_policy(sites, table.bits), sites, limits)
    problem = build_problem(sites, table, [MODELS[m] for m in limits], Constraints())
    objective = make_objective(problem.harms(table), problem.preference)
    chosen = solve_milp(problem, objective, np.array(list(limits.values())) - problem.constant)
    if expected is None:
        assert chosen.value is None
        assert chosen.bound == np.inf
        return
    policy = problem.policy([ls[i] for ls, i in zip(problem.levels, chosen.picks, strict=True)], sites)
    assert table.predict(policy) == pytest.approx(expected[0], rel=1e-6, abs=1e-9)
    assert chosen.bound <= chosen.value


@given(st.integers(0, 10**6))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_the_optimum_under_constraints(seed: int) -> None:
    check_constrained(seed)


def test_the_optimum_under_constraints_by_eliminating_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solver_module, "ENUMERATED", 1)
    for seed in range(60):
        check_constrained(seed)


def check_constrained(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sites, table, limits = case(seed)
    names = list(sites.names)
    together = [list(rng.choice(names, size=min(2, len(names)), replace=False))] if rng.random() < 0.5 else []
    pinned: dict[str, int | None] = {}
    if rng.random() < 0.4:
        pinned[names[int(rng.integers(len(names)))]] = None if rng.random() < 0.5 else table.bits[-1]
    allowed = {names[0]: [table.bits[0], table.bits[1], "float"]} if rng.random() < 0.4 else {}
    pairs = []
    if rng.random() < 0.6:
        pairs = [(w, a) for w in table.bits for a in table.bits if rng.random() < 0.6] or [(table.bits[0],) * 2]
    constraints = Constraints(bits=allowed, pinned=pinned, together=together, pairs=pairs)

    widths: list[list[int | None]] = [list(table.bits) for _ in names]
    for i, name in enumerate(names):
        if name in allowed:
            widths[i] = [table.bits[0], table.bits[1], None]
        if name in pinned:
            widths[i] = [b for b in (widths[i] if name in allowed else [pinned[name]]) if b == pinned[name]]
    policies = []
    grids = np.array(np.meshgrid(*[range(len(w)) for w in widths], indexing="ij")).reshape(len(names), -1).T
    for row in grids:
        bits = {n: widths[i][k] for i, (n, k) in enumerate(zip(names, row, strict=True))}
        agree = all(bits[g[0]] == bits[g[-1]] for g in together)
        runs = [(bits[op.right], bits[op.left]) for op in sites.operations if op.left and op.right]
        fits = not pairs or all(None in run or run in pairs for run in runs)
        if agree and fits:
            policies.append(Policy(bits, sites.graph_hash))
    expected = brute_force(table, policies, sites, limits) if policies else None
    budgets = [Budget(m, x) for m, x in limits.items()]
    if expected is None:
        with pytest.raises(BitwrightError):
            search(sites, table, budgets=[budgets], constraints=constraints)
        return
    (found,) = search(sites, table, budgets=[budgets], constraints=constraints)
    assert found.predicted == pytest.approx(expected[0], rel=1e-9, abs=1e-12)
    assert dict(found.policy.bits) in [dict(p.bits) for p in policies]
    assert found.optimal


@pytest.mark.parametrize("seed", range(8))
def test_the_unit_of_the_scores_does_not_matter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sites = make_sites(rng, 9, 30)
    table = make_table(rng, sites, (2, 3, 4, 6, 8), STYLES[seed % 4])
    budgets = ["bops=W4A4", "bops=W3A6", "size=W4A4, bops=W4A4"]
    expected = [dict(c.policy.bits) for c in search(sites, table, budgets=budgets)]
    for factor in (1e-9, 1e9, 1e-200, 1e200):
        scaled = replace(table, harm=table.harm * factor)
        assert [dict(c.policy.bits) for c in search(sites, scaled, budgets=budgets)] == expected


@pytest.mark.parametrize("seed", range(6))
def test_small_scores_beside_a_huge_one_are_still_searched_exactly(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sites = make_sites(rng, 4, 5)
    bits = (2, 4, 8)
    table = make_table(rng, sites, bits)
    harm = table.harm * 1e-14
    harm[0, 0] = 1e6
    spiked = replace(table, harm=harm)
    limit = {"bops": MODELS["bops"].of(Policy.uniform(sites, 4, 4), sites)}
    expected = brute_force(spiked, every_policy(sites, bits), sites, limit)
    assert expected is not None
    (found,) = search(sites, spiked, budgets=["bops=W4A4"])
    assert found.predicted == pytest.approx(expected[0], rel=1e-9, abs=0.0)


@pytest.mark.parametrize("hubs", [False, True])
def test_what_is_not_proven_is_not_claimed(hubs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search cut short says how far it may be from the optimum, and never too little."""
    monkeypatch.setattr(knapsack_module, "BEAMS", (1,))
    monkeypatch.setattr(knapsack_module.Knapsack, "_improve", lambda self: None)
    monkeypatch.setattr(solver_module, "solve_milp", lambda *_: Chosen(None, np.zeros(0, dtype=np.intp), -np.inf))
    if hubs:
        monkeypatch.setattr(solver_module, "ENUMERATED", 6)
        monkeypatch.setattr(solver_module.Leaf.hub, "__defaults__", (0,))
    missed = 0
    for seed in range(0, 400, 4):
        sites, table, limits = case(seed)
        expected = brute_force(table, every_policy(sites, table.bits), sites, limits)
        if expected is None:
            continue
        problem = build_problem(sites, table, [MODELS[m] for m in limits], Constraints())
        solution = solver_module.Solver(problem, problem.harms(table)).solve(np.array(list(limits.values())))
        if solution is None:
            continue
        least = expected[0] - sum(float(h.min()) for h in problem.harms(table))
        assert solution.excess * (1 - solution.gap) <= least * (1 + 1e-9) + 1e-12
        missed += solution.excess > least * (1 + 1e-6)
    assert missed > 3


def test_the_same_twice() -> None:
    rng = np.random.default_rng(1)
    sites = make_sites(rng, 30, 100)
    table = make_table(rng, sites, (2, 3, 4, 5, 6, 8))
    assert search(sites, table, points=12).to_json() == search(sites, table, points=12).to_json()
