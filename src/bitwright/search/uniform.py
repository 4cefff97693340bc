"""Uniform policies, which every searched one has to beat."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from bitwright.cost import CostModel, keeps
from bitwright.search.constraints import Constraints
from bitwright.search.problem import Problem, build_problem
from bitwright.values import Budget, Policy, SensitivityTable, Sites


def uniform_within(
    sites: Sites,
    table: SensitivityTable,
    budgets: Sequence[Budget],
    models: Mapping[str, CostModel],
    constraints: Constraints | None = None,
) -> list[Policy]:
    """The uniform policies that keep the budgets and of which neither weights nor activations could be wider.

    Args:
        sites: of the graph.
        table: one width for all weights and one for all activations, of those that it has; sites that it does not cover
            stay in float.
        budgets: hold at once.
        models: metric -> cost.
        constraints: what the hardware allows. A site with a single width keeps it; other policies that break a
            constraint are left out.
    """
    problem = build_problem(sites, table, (), constraints or Constraints())
    fitting = {}
    for weights, activations in itertools.product(table.bits, repeat=2):
        policy = _uniform(problem, sites, weights, activations)
        if policy is not None and keeps(policy, budgets, sites, models):
            fitting[weights, activations] = policy

    def wider(one: tuple[int, int], other: tuple[int, int]) -> bool:
        return one != other and one[0] >= other[0] and one[1] >= other[1]

    return [policy for pair, policy in fitting.items() if not any(wider(other, pair) for other in fitting)]


def _uniform(problem: Problem, sites: Sites, weights: int, activations: int) -> Policy | None:
    """One uniform policy; None where the constraints do not allow it."""
    widths = []
    for group, levels in zip(problem.names, problem.levels, strict=True):
        wanted = {weights if sites[name].kind == "weight" else activations for name in group}
        width = levels[0] if len(levels) == 1 else wanted.pop() if len(wanted) == 1 else None
        if width not in levels:
            return None
        widths.append(width)
    for (u, v), allowed in problem.allowed.items():
        if not allowed[problem.levels[u].index(widths[u]), problem.levels[v].index(widths[v])]:
            return None
    return problem.policy(widths, sites, f"W{weights}A{activations}")
