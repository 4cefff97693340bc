"""The search: its policy keeps the budget, is found again after an interruption, and prefers what matters."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.cost import costs_for
from bitwright.errors import ImpossibleBudget, InvalidInput
from bitwright.gmpq import Imitation, gmpq
from bitwright.gmpq.search import _Work
from bitwright.tasks import Classification, Detection
from bitwright.train.feed import Feed
from bitwright.values import Policy
from bitwright.values.searched import Searched
from bitwright.zoo import grid_detector


@pytest.fixture
def batches(digits_data):
    inputs, targets = digits_data[0]
    return [(inputs[i : i + 64], targets[i : i + 64]) for i in range(0, 256, 64)]


@pytest.fixture
def task(batches):
    return Classification(batches)


@pytest.mark.parametrize("method", ["loss", "gmpq", "r-gmpq"])
def test_the_policy_keeps_the_budget_and_the_graph_stays_as_it_is(digits_graph, task, batches, method):
    policy, stands = bw.Policy.uniform(digits_graph.sites, 3, 4), dict(digits_graph.quantizers)
    digits_graph.apply(policy)
    before = {name: value.clone() for name, value in digits_graph.module.state_dict().items()}
    found = gmpq(
        digits_graph, task, "bops=W3A3", method, epochs=3, holdout=batches[:1], measure_every=2, origin="digits"
    )
    model = costs_for()["bops"]
    limit = model.of(bw.Policy.uniform(digits_graph.sites, 3, 3), digits_graph.sites)
    assert model.of(found.policy, digits_graph.sites) <= limit
    assert found.policy.graph_hash == digits_graph.graph_hash
    assert found.policy.origin == f"{method} on digits, 3 epochs, seed 0"
    assert digits_graph.policy == policy
    assert digits_graph.quantizers == stands
    assert all(torch.equal(digits_graph.module.state_dict()[name], value) for name, value in before.items())
    assert [row.distance is None for row in found.rounds] == [True, False, False]
    assert found.rounds[-1].cost < found.rounds[0].cost + 0.2
    assert (found.rounds[-1].attribution is None) == (method == "loss") == (found.entropies is None)
    assert found.stage == ("" if method == "loss" else "layer2.relu2")
    again = Searched.from_json(found.to_json())
    assert (again.policy, again.policy.origin, again.rounds) == (found.policy, found.policy.origin, found.rounds)


def test_the_policy_file_says_where_it_was_found(tmp_path):
    policy = Policy({"a": 4}, "hash", "bops=W4A4", "gmpq on digits")
    policy.save(tmp_path / "policy.json")
    assert Policy.load(tmp_path / "policy.json").origin == "gmpq on digits"
    assert "origin" not in Policy({"a": 4}).to_json()


class Branches(nn.Module):
    """Two convolutions of the same cost, of which one hardly matters."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.heard, self.unheard = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 10)
        with torch.no_grad():
            self.unheard.weight.mul_(0.02)

    def forward(self, x):
        x = self.first(x).relu()
        return self.head((self.heard(x) + self.unheard(x)).relu().mean((2, 3)))


def test_bits_go_where_they_matter(digits_data):
    torch.manual_seed(0)
    model, (inputs, _) = Branches().eval(), digits_data[0]
    batches = [(inputs[i : i + 64], None) for i in range(0, 256, 64)]
    graph = bw.calibrate(bw.capture(model, inputs[:2]), batches)
    found = gmpq(graph, Classification(batches), "bops=W3A4", "gmpq", epochs=12, share_rate=0.1)
    assert found.policy["heard.weight"] > found.policy["unheard.weight"]


class Stop(BaseException):
    """Stands for a process that ends."""


@pytest.mark.parametrize("after", [1, 5, 11])
def test_an_interrupted_search_goes_on_to_the_same_policy(digits_graph, task, tmp_path, after):
    def stopping(done, of):
        if done == after:
            raise Stop

    wanted = gmpq(digits_graph, task, epochs=3)
    file = tmp_path / "search.checkpoint"
    with pytest.raises(Stop):
        gmpq(digits_graph, task, epochs=3, checkpoint=file, progress=stopping)
    assert file.exists() == (after > 4)
    torch.manual_seed(after)
    found = gmpq(digits_graph, task, epochs=3, checkpoint=file)
    assert (found.policy, found.shares, found.rounds) == (wanted.policy, wanted.shares, wanted.rounds)
    assert not file.exists()


SCRIPT = """
import os, random, signal, sys, time, torch
torch.set_num_threads(1)
import bitwright as bw
from bitwright.gmpq import gmpq
torch.manual_seed(0)
layers = torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
images = torch.randn(64, 1, 6, 6)
model = torch.nn.Sequential(*layers, torch.nn.Linear(4, 3)).eval()
batches = [(images[i : i + 16], torch.arange(16) % 3) for i in range(0, 64, 16)]
graph = bw.calibrate(bw.capture(model, images[:2]), batches)

def search(file=None):
    return gmpq(graph, bw.tasks.Classification(batches), epochs=20, share_rate=0.1, checkpoint=file)

moment, kills = random.Random(3), 0
for _ in range(4):
    child = os.fork()
    if not child:
        search(sys.argv[1])
        os._exit(0)
    while not os.path.exists(sys.argv[1]):
        time.sleep(0.01)
    time.sleep(moment.uniform(0, 0.1))
    os.kill(child, signal.SIGKILL)
    kills += os.waitpid(child, 0)[1] == signal.SIGKILL and os.path.exists(sys.argv[1])
found, wanted = search(sys.argv[1]), search()
assert (found.policy, found.shares, found.rounds) == (wanted.policy, wanted.shares, wanted.rounds)
print(kills)
"""


def test_a_search_that_was_killed_goes_on_to_the_same_policy(tmp_path):
    words = [sys.executable, "-c", SCRIPT, str(tmp_path / "search.checkpoint")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0  # it was killed after an epoch and before the end at least once


def test_a_checkpoint_of_another_search_is_refused(digits_graph, task, tmp_path):
    def stopping(done, of):
        if done == 5:
            raise Stop

    file = tmp_path / "search.checkpoint"
    with pytest.raises(Stop):
        gmpq(digits_graph, task, epochs=2, checkpoint=file, progress=stopping)
    with pytest.raises(InvalidInput, match="belongs to another search"):
        gmpq(digits_graph, task, "bops=W3A3", epochs=2, checkpoint=file)
    with pytest.raises(InvalidInput, match="belongs to another search"):
        gmpq(digits_graph, task, epochs=2, checkpoint=file, head=True)
    file.write_bytes(b"nothing")
    with pytest.raises(InvalidInput, match="cannot be read"):
        gmpq(digits_graph, task, epochs=2, checkpoint=file)


def working(graph, task, how):
    feed = Feed(task.calibration, graph, 0, True, None)
    return _Work(graph, task, feed, "bops=W4A4", how, (2, 3, 4, 6), 2, (0.01, 0.05, 3.0), True, 0)


def test_the_power_grows_with_the_lack_of_capacity_and_with_hardness(digits_graph, task):
    losses = torch.tensor([0.0, 1.0, 2.0])
    assert working(digits_graph, task, Imitation(shape="none")).powers(losses).tolist() == [1.0, 1.0, 1.0]
    lack = 36 / 3.75**2  # the mean of four widths
    for shape, wanted in (("linear", lack), ("concave", lack**0.5), ("convex", lack**2)):
        found = working(digits_graph, task, Imitation(shape=shape)).powers(losses)
        assert found.tolist() == pytest.approx([wanted] * 3)
    hard = working(digits_graph, task, Imitation(shape="none", hardness=True)).powers(losses)
    assert hard.tolist() == pytest.approx([0.5, 1.0, 0.5 + 2 / 3])


def test_without_targets_float_is_imitated(digits_graph, batches):
    inputs = [(images, None) for images, _ in batches]
    found = gmpq(digits_graph, Classification(inputs), epochs=2)
    assert found.rounds[-1].loss < 1.0
    assert gmpq(digits_graph, Classification(batches), epochs=2).rounds == found.rounds
    assert gmpq(digits_graph, Classification(inputs), epochs=2, labels=True).rounds == found.rounds
    assert gmpq(digits_graph, Classification(batches), epochs=2, labels=True).rounds != found.rounds


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "gmqp"}, "method must be one of loss, gmpq, r-gmpq, got 'gmqp'; did you mean 'gmpq'"),
        ({"epochs": 0}, "epochs must be a whole number of at least 1, got 0"),
        ({"share_rate": 0}, "share_rate must be above 0 and at most 1, got 0"),
        ({"widths": (4,)}, "widths must be at least two, ascending"),
        ({"budget": "bops"}, "a budget must have the form METRIC=LIMIT"),
    ],
)
def test_bad_settings_are_refused(digits_graph, task, settings, message):
    with pytest.raises(InvalidInput) as caught:
        gmpq(digits_graph, task, **settings)
    assert message in str(caught.value)


@pytest.mark.parametrize("settings", [{"weight": -1}, {"top": 0}, {"shape": "round"}, {"spread": 1}])
def test_bad_imitations_are_refused(settings):
    with pytest.raises(InvalidInput, match=next(iter(settings))):
        Imitation(**settings)


def test_no_data_and_impossible_budgets_are_refused(digits_graph, task):
    with pytest.raises(InvalidInput, match="task must have calibration data"):
        gmpq(digits_graph, Classification())
    with pytest.raises(ImpossibleBudget, match="no policy fits"):
        gmpq(digits_graph, task, "bops=0.1%")


def test_a_detector_is_searched_by_the_distance_to_float():
    images = torch.rand(32, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    targets = torch.full((32, 1, 5), -1.0)
    batches = [(images[i : i + 16], targets[i : i + 16]) for i in (0, 16)]
    graph = bw.calibrate(bw.capture(grid_detector(width=4).eval(), images[:2]), batches)
    task = Detection(batches, decode=lambda outputs: [], scores="objectness")
    assert not task.has_loss
    found = gmpq(graph, task, epochs=2)
    assert found.stage == "neck.2"
    assert found.rounds[-1].attribution > 0
    assert 0 < found.rounds[-1].loss < 10
    assert found.rounds == gmpq(graph, task, epochs=2, labels=True).rounds


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.block, self.head = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.block(self.embed(x).relu()).relu().mean(1))


def test_tokens_stand_for_pixels_and_a_note_says_so():
    values = torch.randn(32, 6, 4)
    batches = [(values, torch.arange(32) % 3)]
    graph = bw.calibrate(bw.capture(Tokens().eval(), values[:2]), batches)
    found = gmpq(graph, Classification(batches), epochs=1)
    assert "has no convolutional stage" in found.notes[0]
    assert len(found.maps[0].floats) == 1
    assert len(found.maps[0].floats[0]) == 6
    assert not found.maps[0].image
