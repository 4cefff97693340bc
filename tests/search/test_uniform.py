from __future__ import annotations

import pytest

from bitwright.cost import costs_for, parse_budgets
from bitwright.search import Constraints, uniform_within
from bitwright.values import Policy, SensitivityTable, Sites


def names(network: Sites, table: SensitivityTable, budget: str, constraints: Constraints | None = None) -> list[str]:
    models = costs_for("none")
    return [p.name for p in uniform_within(network, table, parse_budgets(budget, network, models), models, constraints)]


def test_they_are_as_wide_as_the_budget_allows(network: Sites, table: SensitivityTable) -> None:
    assert names(network, table, "bops=W4A4") == ["W2A8", "W4A4", "W8A2"]
    assert names(network, table, "bops=W8A8") == ["W8A8"]
    assert names(network, table, "bops=1") == []


def test_they_are_the_uniform_policies(network: Sites, table: SensitivityTable) -> None:
    models = costs_for("none")
    (found,) = uniform_within(network, table, parse_budgets("bops=W8A8", network, models), models)
    assert found == Policy.uniform(network, 8, 8)


def test_sites_without_a_score_stay_in_float(network: Sites, table: SensitivityTable) -> None:
    part = SensitivityTable("test", "harm", table.sites[:4], (4,), table.harm[:4, 2:3], graph_hash="graph")
    (found,) = uniform_within(network, part, (), {})
    assert dict(found.bits) == dict.fromkeys(table.sites[:4], 4)


@pytest.mark.parametrize(
    ("constraints", "left"),
    [
        (Constraints(pairs=[(4, 4), (8, 8)]), ["W4A4"]),
        (Constraints(bits={"sum": (2, 8)}), ["W2A8", "W8A2"]),
        (Constraints(together=[["input", "conv1.weight"]]), ["W4A4"]),
    ],
)
def test_they_keep_to_the_constraints(
    network: Sites, table: SensitivityTable, constraints: Constraints, left: list[str]
) -> None:
    table = SensitivityTable("test", "harm", table.sites, (2, 4, 8), table.harm[:, [0, 2, 4]], graph_hash="graph")
    assert names(network, table, "bops=W4A4", constraints) == left


def test_a_pinned_site_keeps_its_width(network: Sites, table: SensitivityTable) -> None:
    models = costs_for("none")
    budgets = parse_budgets("bops=W4A4", network, models)
    found = uniform_within(network, table, budgets, models, Constraints(pinned={"fc.weight": 8}))
    assert found
    assert all(policy["fc.weight"] == 8 for policy in found)
    assert all(len({policy["conv1.weight"], policy["conv2.weight"]}) == 1 for policy in found)
