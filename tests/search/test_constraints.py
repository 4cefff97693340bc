from __future__ import annotations

import pytest

from bitwright.errors import InvalidInput, InvalidPolicy
from bitwright.search import Constraints, search
from bitwright.values import SensitivityTable, Sites


def test_pinned_by_name_and_pattern(network: Sites, table: SensitivityTable) -> None:
    constraints = Constraints(pinned={"fc.weight": 8, "conv*": 4, "input": "float"})
    (found,) = search(network, table, budgets="bops=W8A32", constraints=constraints)
    assert dict(found.policy.bits) == {"conv1.weight": 4, "conv2.weight": 4, "sum": 8, "fc.weight": 8}


def test_allowed_bits_of_a_site(network: Sites, table: SensitivityTable) -> None:
    constraints = Constraints(bits={"*.weight": [2, 8], "conv1.weight": [8, 6]})
    (found,) = search(network, table, budgets="bops=W4A4", constraints=constraints)
    assert found.policy["conv1.weight"] == 8
    assert {found.policy["conv2.weight"], found.policy["fc.weight"]} <= {2, 8}


def test_float_is_a_choice_only_where_named(network: Sites, table: SensitivityTable) -> None:
    (found,) = search(network, table, budgets="bops=100%", constraints=Constraints(bits={"fc.weight": [4, None]}))
    assert found.policy["fc.weight"] is None
    assert found.policy["conv1.weight"] == 8


def test_sites_that_the_table_does_not_cover_stay_in_float(network: Sites, table: SensitivityTable) -> None:
    part = SensitivityTable("test", "harm", table.sites[:4], table.bits, table.harm[:4], graph_hash="graph")
    (found,) = search(network, part, budgets="bops=W4A32")
    assert "fc.weight" not in found.policy.bits
    with pytest.raises(InvalidInput, match="8 bits at site 'fc.weight', where it is not in the sensitivity table"):
        search(network, part, constraints=Constraints(pinned={"fc.weight": 8}))


def test_sites_together(network: Sites, table: SensitivityTable) -> None:
    constraints = Constraints(together=[["conv*"], ["conv2.weight", "fc.weight"], ["input"]])
    assert constraints.groups(network) == [("conv1.weight", "conv2.weight", "fc.weight")]
    for candidate in search(network, table, points=8, constraints=constraints):
        assert len({candidate.policy[s.name] for s in network.weights}) == 1


def test_pairs_by_kind_and_name(network: Sites, table: SensitivityTable) -> None:
    constraints = Constraints(pairs={"conv2d": [(4, 8)], "*": [(8, 8), (2, 2)], "conv1": [[6, 8]]})
    (found,) = search(network, table, budgets="bops=W8A8", constraints=constraints)
    assert dict(found.policy.bits) == {
        "input": 8,
        "conv1.weight": 6,
        "conv2.weight": 4,
        "sum": 8,
        "fc.weight": 8,
    }
    (found,) = search(network, table, budgets="bops=W6A6", constraints=constraints)
    assert (found.policy["sum"], found.policy["fc.weight"]) in {(8, 8), (2, 2)}


def test_pairs_leave_operations_in_float_alone(network: Sites, table: SensitivityTable) -> None:
    constraints = Constraints(pairs=[(8, 8)], pinned={"input": None, "conv1.weight": 3})
    (found,) = search(network, table, budgets="bops=W8A32", constraints=constraints)
    assert found.policy["conv1.weight"] == 3
    assert found.policy["fc.weight"] == found.policy["sum"] == 8


@pytest.mark.parametrize(
    ("constraints", "message"),
    [
        (Constraints(pinned={"conv3.weight": 8}), "matches none of the 5 sites; did you mean 'conv"),
        (Constraints(pinned={"z*": 8}), "'z*' matches none"),
        (Constraints(together=["conv*"]), "together takes lists of sites, got the text 'conv*'"),  # type: ignore[list-item]
        (Constraints(pairs=[4, 8]), "must be (weight bits, activation bits), got 4"),  # type: ignore[list-item]
        (Constraints(pairs={"conv3d": [(8, 8)]}), "pairs names operation 'conv3d', which this graph does not have"),
        (Constraints(bits={"input": [2]}, pinned={"input": 8}), "pinned asks for 8 bits at site 'input', where 2 bits"),
        (Constraints(pinned={"input": 5}), "the table has bits (2, 3, 4, 6, 8), not 5"),
        (
            Constraints(pinned={"input": 4, "conv1.weight": 4}, pairs=[(8, 8)]),
            "no allowed widths are left for site 'conv1.weight' beside 'input' at 4 bits",
        ),
        (
            Constraints(pinned={"conv1.weight": 4, "conv2.weight": 8}, together=[["conv*"]]),
            "the sites conv1.weight, conv2.weight must agree, but have no width in common",
        ),
    ],
)
def test_contradictions(network: Sites, table: SensitivityTable, constraints: Constraints, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        search(network, table, budgets="bops=W8A8", constraints=constraints)
    assert message in str(caught.value)


def test_bits_out_of_range(network: Sites, table: SensitivityTable) -> None:
    with pytest.raises(InvalidPolicy, match="between 2 and 16, got 1 for site 'input'"):
        search(network, table, constraints=Constraints(pinned={"input": 1}))
    with pytest.raises(InvalidInput, match="must be a list of widths"):
        search(network, table, constraints=Constraints(bits={"input": "48"}))


def test_pairs_without_a_common_choice(network: Sites, table: SensitivityTable) -> None:
    constraints = Constraints(pairs={"conv1": [(8, 8)], "conv2": [(8, 4)], "fc": [(8, 8)]})
    with pytest.raises(InvalidInput, match="leave no combination of widths for the sites input, conv1.weight"):
        search(network, table, budgets="bops=W8A8", constraints=constraints)
