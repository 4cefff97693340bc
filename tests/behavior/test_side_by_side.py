"""Several networks on the same inputs: each as alone, their differences by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import bitwright as bw
from bitwright.behavior.inputs import Inputs, half, origins
from bitwright.behavior.shift import SHIFTS, Scale, Under
from bitwright.errors import InvalidInput
from bitwright.report.panels_behaviors import behaviors_panel
from bitwright.tasks.intervals import wilson
from bitwright.values.behavior import Behaviors

NAMES = ["gaussian-noise", "snow"]


@pytest.fixture
def batches(digits_data):
    inputs, targets = digits_data[1]
    return [(inputs[i : i + 50], targets[i : i + 50]) for i in range(0, 150, 50)]


def test_each_is_as_alone_and_differences_are_those_of_counting_by_hand(digits_graph, batches):
    policies = {name: bw.Policy.uniform(digits_graph.sites, int(name[1]), int(name[3])) for name in ("W3A3", "W4A3")}
    subjects = {name: bw.Subject(digits_graph, policy) for name, policy in policies.items()}
    calls = []
    found = bw.behaviors(subjects, batches, NAMES, severities=(5,), seed=3, progress=lambda *done: calls.append(done))
    assert calls == [(i + 1, 6) for i in range(6)]
    assert Behaviors.from_dict(found.to_dict()) == found
    for name, policy in policies.items():
        assert found.studies[name] == bw.behavior(digits_graph, policy, batches, NAMES, severities=(5,), seed=3)
    scale, truth = Scale.of(batches), torch.cat([targets for _, targets in batches]).repeat(2)
    under = [batch for name in NAMES for batch in Under(batches, SHIFTS[name], 5, scale, 3)]
    made = {}
    for name, policy in {"float": bw.FLOAT, **policies}.items():
        with digits_graph.applied(policy), torch.no_grad():
            made[name] = torch.cat([digits_graph(*inputs).argmax(1) for inputs, _ in under])
    rates = {name: float((made[name] != made["float"]).double().mean()) for name in policies}
    right = {name: float((made[name] == truth).double().mean()) for name in made}
    first, second = found.totals.values()
    assert first.samples == second.samples == 300
    assert (first.rate.value, second.rate.value) == pytest.approx(tuple(rates.values()))
    assert first.against is None
    assert second.against.value == pytest.approx(rates["W4A3"] - rates["W3A3"])
    assert second.against.low < second.against.value < second.against.high
    assert second.figure.value == pytest.approx(right["W4A3"])
    assert second.figure_against.value == pytest.approx(right["W4A3"] - right["W3A3"])
    assert first.float_figure == pytest.approx(right["float"])
    panel = behaviors_panel(found)
    assert panel.names == ("W3A3", "W4A3")
    assert [row.name for row in panel.grid] == ["as they are", "gaussian-noise 5", "snow 5"]
    assert panel.rows[0][3] == panel.rows[0][6] == "–"
    assert {row[0] for row in panel.judged} == {one.name for one in found.studies["W3A3"].indicators}


def test_a_shared_float_network_runs_once_and_shifts_are_made_once(digits_graph, batches, monkeypatch):
    runs, made, forward, shift = [], [], bw.Graph.__call__, SHIFTS["snow"].function

    def counted(graph, *inputs):
        runs.append(graph.policy.name)
        return forward(graph, *inputs)

    def snow(*given):
        made.append(given)
        return shift(*given)

    monkeypatch.setattr(bw.Graph, "__call__", counted)
    object.__setattr__(SHIFTS["snow"], "function", snow)
    try:
        subjects = {str(b): bw.Subject(digits_graph, bw.Policy.uniform(digits_graph.sites, b, 8)) for b in (3, 4, 5)}
        bw.behaviors(subjects, batches, ["snow"], severities=(5,), task="classification")
    finally:
        object.__setattr__(SHIFTS["snow"], "function", shift)
    assert len(made) == 3  # batches
    assert runs.count("float") == 2 * 3  # of two cases, with three batches each
    assert len(runs) == 4 * 2 * 3


def test_no_subject_is_refused(batches):
    with pytest.raises(InvalidInput, match="subjects must hold at least one network"):
        bw.behaviors({}, batches)


def test_an_input_is_drawn_with_all_its_shifts():
    """Values that are the same under all shifts: more shifts make no interval smaller."""
    generator = np.random.RandomState(0)
    values = (generator.rand(400) < 0.3).astype(float)
    alone = Inputs(np.arange(400), 1, 2000).share(values)
    many = Inputs(np.tile(np.arange(400), 9), 1, 2000).share(np.tile(values, 9))
    assert many == alone
    spread = np.sqrt(values.var() / 400)
    assert (alone.high - alone.low) / 2 == pytest.approx(1.96 * spread, rel=0.1)
    apart = Inputs(np.arange(3600), 1, 2000).share(np.tile(values, 9))
    assert apart.high - apart.low == pytest.approx((alone.high - alone.low) / 3, rel=0.15)


def test_shares_and_changes_of_none():
    inputs = Inputs(np.tile(np.arange(50), 2), 0)
    none, some = np.zeros(100), np.arange(100) % 2
    assert inputs.share(none).high == wilson(0, 50).high
    assert inputs.share(none + 1).low == wilson(50, 50).low
    assert inputs.share(some, of=some).value == 1.0
    still = inputs.change(some, some)
    assert (still.value, still.low, still.high) == (0.0, -wilson(0, 50).high, wilson(0, 50).high)
    assert inputs.change(some, none).value == 0.5


def test_inputs_of_one_set_have_the_same_numbers_in_all_cases():
    numbers = origins([("", 3), ("", 3), ("other", 2)])
    assert (numbers[:3] == numbers[3:6]).all()
    assert len(set(numbers.tolist())) == 5
    side = half(numbers, 0)
    assert (side[:3] == side[3:6]).all()
