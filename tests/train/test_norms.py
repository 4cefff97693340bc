"""Live batch norms: they begin as nothing, and fold into the same function."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.train import qat
from bitwright.train.learner import Learner
from bitwright.train.norms import EPSILON


class Convolutions(nn.Module):
    """Two convolutions with batch norms, the second one depthwise, and a linear layer."""

    def __init__(self):
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.second, self.norm2 = nn.Conv2d(6, 6, 3, groups=6), nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = torch.relu(self.norm1(self.first(x)))
        x = torch.relu(self.norm2(self.second(x)))
        return self.head(x.mean((2, 3)))


@pytest.fixture
def x():
    return torch.randn(64, 2, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def graph(x):
    torch.manual_seed(1)
    model = Convolutions()
    model.train()
    for _ in range(20):
        model(x)
    model.eval()
    return bw.calibrate(bw.capture(model, x[:2]), [(x, None)])


def learner_of(graph, x, activations=None):
    graph.apply(bw.Policy.uniform(graph.sites, 3, activations))
    learner = Learner(graph, live=True)
    learner.begin([(x,)])
    return learner


def test_a_norm_begins_as_the_identity(graph, x):
    with torch.no_grad():
        expected = graph.apply(bw.Policy.uniform(graph.sites, 3, 4))(x)
        learner = learner_of(graph, x, 4)
        assert len(learner.norms) == 2
        assert (learner((x,)) - expected).abs().max() < 1e-5 * expected.abs().max() + 1e-5


def shaken(learner):
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for norm in learner.norms:
            for each in norm.learned:
                each.add_(0.3 * torch.randn(each.shape, generator=generator))
        for quantizer in learner.learned.values():
            quantizer.log_step.add_(0.1 * torch.randn(quantizer.log_step.shape, generator=generator))
            if quantizer.moves is not None:
                quantizer.moves.add_(torch.randn(quantizer.moves.shape, generator=generator))


def test_folded_it_computes_the_same_with_the_same_integers(graph, x):
    learner = learner_of(graph, x)
    shaken(learner)
    with torch.no_grad():
        live, before = learner((x,)), learner.integers()
        with learner.folded([(x,)]):
            assert torch.allclose(graph(x), live, atol=1e-5)
            after = learner.integers()
        assert all(torch.equal(after[name], before[name]) for name in before)
        assert torch.allclose(learner((x,)), live, atol=1e-6), "afterwards it goes on as before"
        assert len(learner.norms) == 2


def test_outputs_get_the_mean_and_spread_that_are_learned(graph, x):
    learner = learner_of(graph, x)
    shaken(learner)
    norm = learner.norms[0]
    seen = []
    with torch.no_grad():
        learner._refresh()
        learner._walk((x,), {norm.node: lambda call: seen.append(norm(call)) or seen[0]})
    (value,) = seen
    spread = norm.tensors["first spread"] * norm.gain.exp()
    mean = norm.tensors["first mean"] + norm.tensors["first spread"] * norm.shift
    assert torch.allclose(value.mean((0, 2, 3)), mean, atol=1e-5)
    assert torch.allclose(value.std((0, 2, 3), correction=0), spread, rtol=100 * EPSILON)


def test_a_network_with_batch_norms_is_trained_and_exported(graph, x, tmp_path):
    pytest.importorskip("onnxruntime")
    policy = bw.Policy.uniform(graph.sites, 3, 4)
    with torch.no_grad():
        batches = [(part, graph.apply(bw.FLOAT)(part)) for part in x.split(16)]
    before = bw.evaluate(graph, policy, batches, task="regression").distance.value
    qat(graph, batches, policy, task="regression", epochs=12)
    assert bw.evaluate(graph, policy, batches, task="regression").distance.value < 0.8 * before
    bw.export(graph, tmp_path / "model.onnx")
    parity = bw.parity(graph, tmp_path / "model.onnx", batches, task="regression")
    assert parity.exact_difference == 0.0
