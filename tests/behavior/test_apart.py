"""Two quantized networks beside each other, against counting by hand."""

from __future__ import annotations

import pytest
import torch

import bitwright as bw
from bitwright.behavior.apart import apart
from bitwright.report.compare import apart_sentence
from bitwright.tasks import Classification, Regression
from bitwright.values.behavior import Apart


def test_decisions_of_two_networks_are_compared_with_each_other(digits_graph, digits_data):
    inputs, targets = digits_data[1]
    batches = [(inputs[i : i + 50], targets[i : i + 50]) for i in range(0, 200, 50)]
    other, (low, high) = digits_graph.copy(), (bw.Policy.uniform(digits_graph.sites, bits, bits) for bits in (3, 4))
    found = apart((digits_graph, low), (other, high), batches, Classification())
    assert digits_graph.policy == other.policy == bw.FLOAT
    decided, truth = [], targets[:200]
    for policy in (low, high):
        with digits_graph.applied(policy), torch.no_grad():
            decided.append(digits_graph(inputs[:200]).argmax(1))
    first, second = decided
    case = found.case
    assert case.disagreements == int((first != second).sum()) > 0
    assert case.float_figure == pytest.approx(float((first == truth).double().mean()))
    assert case.figure == pytest.approx(float((second == truth).double().mean()))
    assert case.lost == int(((first == truth) & (second != truth)).sum())
    assert case.gained == int(((second == truth) & (first != truth)).sum())
    assert len(found.examples) == min(24, case.disagreements)
    for one in found.examples:
        assert (one.before, one.after) == (int(first[one.sample]), int(second[one.sample]))
    assert Apart.from_dict(found.to_dict()) == found
    said = apart_sentence(found, "a", "b")
    assert said.startswith(f"b against a, on the same 200 inputs: other decisions on {case.rate.value:.1%} [")
    assert said.endswith(f"; {case.lost} right in a alone, {case.gained} in b alone.")


def test_networks_without_decisions_are_compared_by_their_distance(digits_graph, digits_data):
    inputs = digits_data[1][0][:40]
    policies = [bw.Policy.uniform(digits_graph.sites, bits, bits) for bits in (3, 4)]
    sides = [(digits_graph.copy(), policy) for policy in policies]
    found = apart(*sides, [(inputs, torch.zeros(40, 10))], Regression())
    assert found.case.disagreements is None
    assert found.case.distance.value > 0
    assert "on the same 40 inputs: " in apart_sentence(found, "a", "b")
