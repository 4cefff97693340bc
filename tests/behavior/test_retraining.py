"""Retraining with disagreements: what is added, and what becomes of it, against counting by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.behavior.inputs import half
from bitwright.behavior.retraining import Mixed
from bitwright.behavior.shift import SHIFTS, Scale, Under
from bitwright.errors import InvalidInput
from bitwright.report.panels_behavior import retraining_sentence
from bitwright.values.behavior import Retraining

NAMES = ["gaussian-noise", "snow"]


@pytest.fixture
def training(digits_data):
    inputs, targets = digits_data[0]
    return [(inputs[i : i + 64], targets[i : i + 64]) for i in range(0, 256, 64)]


def test_what_is_added_and_what_becomes_of_it(digits_graph, batches, training, decisions):
    policy, graph = bw.Policy.uniform(digits_graph.sites, 3, 3), digits_graph.copy()
    scale, truth = Scale.of(batches), torch.cat([targets for _, targets in batches])
    cases = {"": batches, **{name: list(Under(batches, SHIFTS[name], 5, scale, 4)) for name in NAMES}}
    cases[""] = [((inputs,), targets) for inputs, targets in batches]
    before = {name: decisions(graph, policy, each) for name, each in cases.items()}
    exact = {name: decisions(graph, bw.FLOAT, each) for name, each in cases.items()}
    given = []

    def learn(mixed):
        given.append(mixed)
        bw.qat(graph, mixed, policy, epochs=2, shuffle=True, seed=4)
        return bw.Subject(graph, policy)

    found = bw.retrain(graph, policy, batches, training, NAMES, severities=(5,), epochs=2, learn=learn, seed=4)
    after = {name: decisions(graph, policy, each) for name, each in cases.items()}
    first = torch.from_numpy(half(np.arange(200), 4))
    wanted = [torch.cat([x for (x,), _ in cases[name]])[first & (before[name] != exact[name])] for name in cases]
    (mixed,) = given
    torch.testing.assert_close(torch.cat([x for (x,), _ in mixed.added]), torch.cat(wanted))
    labels = [truth[first & (before[name] != exact[name])] for name in cases]
    assert torch.equal(torch.cat([y for _, y in mixed.added]), torch.cat(labels))
    assert found.added == sum(map(len, wanted))
    assert found.trained_on == 256
    for one, side in ((found.same, first), (found.other, ~first)):
        was = torch.cat([(before[name] != exact[name])[side] for name in cases])
        now = torch.cat([(after[name] != exact[name])[side] for name in cases])
        counts = (one.before, one.after, one.removed, one.kept, one.new)
        assert counts == tuple(int(m.sum()) for m in (was, now, was & ~now, was & now, now & ~was))
        assert one.change.value == pytest.approx((one.after - one.before) / (3 * 100))
        assert one.change.low < one.change.value < one.change.high
        assert one.removed_share.value == pytest.approx(one.removed / one.before)
        assert one.new_share.value == pytest.approx(one.new / one.after)
    right = [torch.cat([(each[name] == truth)[~first] for name in cases]).double().mean() for each in (before, after)]
    assert found.other.figure_change.value == pytest.approx(float(right[1] - right[0]))
    assert found.other.after < found.other.before  # it learns what it is shown
    snow = next(one for one in found.shifts if one.name == "snow")
    assert snow.before == int((before["snow"] != exact["snow"])[~first].sum())
    assert sum(one.before for one in found.shifts) == found.other.before
    assert Retraining.from_dict(found.to_dict()) == found
    said = retraining_sentence(found)
    assert f"{found.other.before} disagreements" in said
    again = digits_graph.copy()
    assert bw.retrain(again, policy, batches, training, NAMES, severities=(5,), epochs=2, seed=4) == found


class Numbers(nn.Module):
    """Two numbers of an image."""

    def __init__(self):
        super().__init__()
        self.hidden, self.head = nn.Linear(64, 16), nn.Linear(16, 2)

    def forward(self, x):
        return self.head(torch.relu(self.hidden(x.flatten(1))))


def test_a_task_that_decides_nothing_needs_its_tolerance(digits_data):
    torch.manual_seed(0)
    inputs = digits_data[1][0][:60]
    targets = torch.randn(60, 2)
    data = [(inputs[i : i + 15], targets[i : i + 15]) for i in range(0, 60, 15)]
    graph = bw.calibrate(bw.capture(Numbers().eval(), inputs[:2]), data)
    policy, options = bw.Policy.uniform(graph.sites, 3, 3), {"severities": (5,), "task": "regression", "epochs": 30}
    with pytest.raises(InvalidInput, match="decides nothing; give a tolerance"):
        bw.retrain(graph, policy, data, data, ["contrast"], **options)
    distance = bw.behavior(graph, policy, data, [], task="regression").clean.distance.value
    found = bw.retrain(graph, policy, data, data, ["contrast"], tolerance=distance, **options)
    assert found.added > 0
    assert found.other.after < found.other.before
    assert found.same.before == found.added


def test_nothing_to_train_with_is_said(digits_graph, batches, training):
    policy = bw.Policy.uniform(digits_graph.sites, 16, 16)
    with pytest.raises(InvalidInput, match="there is no disagreement to train with"):
        bw.retrain(digits_graph, policy, batches, training, [])


def test_disagreements_have_targets_where_the_training_data_have(batches):
    (inputs, targets), rest = batches[0], batches[1:]
    added = [((inputs,), targets)]
    assert all(wanted is None for _, wanted in Mixed([x for x, _ in rest], added))
    assert all(wanted is not None for _, wanted in Mixed(rest, added))
