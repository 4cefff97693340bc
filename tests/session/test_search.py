"""``bw.search`` with measurements: never worse than a uniform policy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import bitwright as bw
from bitwright.errors import InvalidInput
from bitwright.search import Constraints
from bitwright.values import Front

BITS = (2, 4, 8)


@pytest.fixture
def batches(digits_data):
    inputs, targets = digits_data[0]
    return [(inputs[:96], targets[:96])]


@pytest.fixture
def misleading(digits_graph, batches):
    """A table that calls the worst choices the best: weights of 2 bits harm nothing."""
    table = bw.sensitivity(digits_graph, batches, "fit", BITS, samples=32)
    weights = [digits_graph.sites[name].kind == "weight" for name in table.sites]
    return replace(table, harm=np.where(np.array(weights)[:, None], table.harm * 1e-9, table.harm))


def distances(graph, front, batches):
    return [bw.evaluate(graph, c.policy, batches).distance.value for c in front]


def test_a_misleading_table_ends_no_worse_than_uniform(digits_graph, misleading, batches):
    budgets = ["bops=W4A4", "bops=W4A8", "bops=W2A8"]
    alone = bw.search(digits_graph, misleading, budgets=budgets)
    found = bw.search(digits_graph, misleading, budgets=budgets, measure=batches)
    assert (alone.basis, found.basis) == ("predicted", "measured")
    uniform = [bw.Policy.uniform(digits_graph.sites, w, a) for w, a in ((4, 4), (4, 8), (2, 8))]
    best = [bw.evaluate(digits_graph, policy, batches).distance.value for policy in uniform]
    ours = distances(digits_graph, found, batches)
    assert all(value <= least for value, least in zip(ours, best, strict=True))
    assert any(value > least for value, least in zip(distances(digits_graph, alone, batches), best, strict=True))
    for candidate, value, budget in zip(found, ours, budgets, strict=True):
        assert candidate.verdict.distance.value == pytest.approx(value)
        assert candidate.policy.name == budget
        assert candidate.used["bops"] <= 1


def test_a_whole_front_is_measured(digits_graph, misleading, batches):
    found = bw.search(digits_graph, misleading, points=3, rounds=1, measure=batches)
    assert found.basis == "measured"
    assert all(candidate.verdict is not None for candidate in found)


def test_constraints_hold_for_uniform_policies(digits_graph, misleading, batches):
    pinned = Constraints(pinned={"linear.weight": 2})
    (found,) = bw.search(digits_graph, misleading, budgets=["bops=W4A8"], constraints=pinned, measure=batches, rounds=1)
    assert found.policy["linear.weight"] == 2


def test_a_function_can_measure(digits_graph, misleading):
    asked = []

    def measure(policy):
        asked.append(policy)
        return float(sum(policy.bits.values()))

    (found,) = bw.search(digits_graph.sites, misleading, budgets=["bops=W4A4"], measure=measure)
    least = min(asked, key=lambda policy: sum(policy.bits.values()) + 1000 * (len(policy.bits) < len(misleading.sites)))
    assert sum(found.policy.bits.values()) == sum(least.bits.values())
    assert bw.Policy.uniform(digits_graph.sites, 4, 4) in asked


def test_batches_need_a_graph(digits_graph, misleading, batches):
    with pytest.raises(InvalidInput, match="measure can be batches only with a captured graph, got its sites"):
        bw.search(digits_graph.sites, misleading, budgets=["bops=W4A4"], measure=batches)


def test_a_front_says_what_it_rests_on(digits_graph, misleading):
    front = bw.search(digits_graph, misleading, budgets=["bops=W4A4"])
    assert repr(front) == "<Front: predicted (fit), 1 candidate: 'bops=W4A4'>"
    assert '"basis": "predicted"' in front.to_json()
    assert Front.from_json(front.to_json()).basis == "predicted"
