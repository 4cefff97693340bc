from __future__ import annotations

import math

import pytest

import bitwright as bw
from bitwright.debug.auto import cheapest_recipe
from bitwright.errors import InvalidInput, PolicyMismatch
from bitwright.graph.batches import Checked
from bitwright.session import Samples, Session
from bitwright.tasks import Classification, evaluate
from bitwright.values.recipe import Action

PER_CHANNEL = (Action("repair", {"name": "granularity"}),)


@pytest.fixture(scope="module")
def graph(digits_model, digits_data):
    return bw.capture(digits_model, digits_data[0][0][:2], quantizer=bw.edge_quantizer("tensor"))


@pytest.fixture(scope="module")
def policies(graph):
    return [bw.Policy.uniform(graph.sites, weights=bits, activations=8) for bits in range(2, 10)]


@pytest.fixture(scope="module")
def data(digits_data):
    (x, y), (tx, ty) = digits_data
    return [(x[:128], y[:128])], [(tx, ty)]


@pytest.fixture
def session(graph, data):
    calibration, holdout = (Checked(part) for part in data)
    return Session(graph, Classification(), Samples(calibration, calibration, holdout, holdout))


def test_bisection_finds_what_trying_all_finds(graph, policies, data, digits_model, session) -> None:
    fresh = bw.capture(digits_model, graph.example_inputs, quantizer=bw.edge_quantizer("tensor"))
    calibrated = bw.calibrate(fresh, data[0])
    changed = [100 * (1 - evaluate(calibrated, p, data[1], resamples=100).agreement.value) for p in policies]
    targets = [0.5, 1.0, 2.0, 5.0, 10.0]
    fits = {target: [share <= target + 1e-9 for share in changed] for target in targets}
    monotone = [target for target in targets if fits[target] == sorted(fits[target])]
    assert len(monotone) >= 3  # a dearer policy is taken to hold where a cheaper one does; small samples break that
    for target in monotone:
        expected = fits[target].index(True)
        found = cheapest_recipe(session, policies, target, ladder=((),))
        assert found.holds
        assert found.recipe.target == policies[expected]
        assert found.verdict.may_lose == pytest.approx(changed[expected])
        assert len(found.tried) <= math.ceil(math.log2(len(policies) + 1))


def test_a_repair_makes_a_cheaper_policy_hold(policies, session) -> None:
    plain = cheapest_recipe(session, policies, 1.0, ladder=((),))
    repaired = cheapest_recipe(session, policies, 1.0, ladder=((), PER_CHANNEL))
    assert repaired.recipe.target["conv1.weight"] < plain.recipe.target["conv1.weight"]
    assert repaired.recipe.actions == PER_CHANNEL
    assert "with repair granularity" in repaired.reason
    assert [one.holds for one in repaired.tried].count(True) >= 1


def test_a_stopped_search_measures_nothing_twice(policies, session) -> None:
    first = cheapest_recipe(session, policies, 1.0, ladder=((), PER_CHANNEL))
    count = session.measured
    assert count == len(first.tried)
    assert cheapest_recipe(session, policies, 1.0, ladder=((), PER_CHANNEL)) == first
    assert session.measured == count


def test_no_policy_holds(policies, session) -> None:
    found = cheapest_recipe(session, policies[:1], 0.0, ladder=((), PER_CHANNEL))
    assert not found.holds
    assert found.recipe.actions == PER_CHANNEL
    assert "No policy is certain to lose at most 0 points" in found.reason


def test_a_repair_that_refuses_is_said_and_passed_over(policies, session) -> None:
    refused = (Action("limits", {"site": "conv1.weight", "low": 0, "high": 1}),)
    found = cheapest_recipe(session, policies[:1], 0.0, ladder=((), refused))
    assert found.tried[-1].verdict is None
    assert "limits can be set only at activations" in found.tried[-1].note
    assert found.recipe.actions == ()


def test_bad_input_is_one_line(policies, session) -> None:
    with pytest.raises(InvalidInput, match="at least one policy"):
        cheapest_recipe(session, [], 1.0)
    with pytest.raises(InvalidInput, match="between 0 and 100 points, got 101"):
        cheapest_recipe(session, policies, 101)
    with pytest.raises(PolicyMismatch, match="made for graph other"):
        cheapest_recipe(session, [bw.Policy({}, "other")], 1.0)
