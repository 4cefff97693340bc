from __future__ import annotations

import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.errors import InvalidData, InvalidInput
from bitwright.gmpq import gmpq, with_head
from bitwright.gmpq.head import DECAY, regression
from bitwright.tasks import Classification


@pytest.fixture
def other(digits_data):
    """The same images, told apart as even and odd, and zero: three classes."""
    inputs, digits = digits_data[0]
    targets = torch.where(digits == 0, 2, digits % 2)
    return [(inputs[i : i + 64], targets[i : i + 64]) for i in range(0, 256, 64)]


def test_the_new_layer_tells_the_other_classes(digits_graph, other):
    made = with_head(digits_graph, other)
    before = digits_graph.copy()
    assert made.graph_hash == digits_graph.graph_hash
    assert made.sites.names == digits_graph.sites.names
    with torch.no_grad():
        right = torch.cat([made(inputs).argmax(1) == targets for inputs, targets in other])
        assert made(other[0][0]).shape == (64, 3)
        assert torch.equal(digits_graph(other[0][0]), before(other[0][0]))
    assert float(right.float().mean()) > 0.9
    policy = bw.Policy.uniform(made.sites, 8, 8)
    assert bw.evaluate(made, policy, other, task="classification").agreement.value > 0.97


def test_a_policy_found_on_other_classes_is_one_for_the_network(digits_graph, other):
    found = gmpq(digits_graph, Classification(other), "bops=W4A4", epochs=2, head=True, origin="even and odd")
    assert found.policy.graph_hash == digits_graph.graph_hash
    assert "even and odd" in found.policy.origin
    digits_graph.apply(found.policy)


def test_the_regression_is_at_its_minimum():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(200, 5, generator=generator, dtype=torch.float64) * torch.tensor([1, 2, 0.1, 5, 1.0])
    targets = (features[:, 0] + 0.3 * torch.randn(200, generator=generator) > 0).long()
    weight, bias = regression(features, targets)
    own, shift = (weight * features.std(0)).requires_grad_(), (bias + weight @ features.mean(0)).requires_grad_()
    scaled = (features - features.mean(0)) / features.std(0)
    loss = nn.functional.cross_entropy(scaled @ own.T + shift, targets) + DECAY * own.square().sum()
    assert all(float(each.abs().max()) < 1e-4 for each in torch.autograd.grad(loss, (own, shift)))


def test_what_cannot_be_a_proxy_is_refused(digits_graph, other, digits_data):
    inputs = digits_data[0][0]
    for targets, message in (
        (None, "needs class numbers"),
        (torch.rand(64), "needs class numbers"),
        (torch.zeros(64, dtype=torch.long), "at least 2 classes, the proxy has 1"),
        (torch.full((64,), -1), "must be 0 or more, got -1"),
    ):
        with pytest.raises(InvalidData, match=message):
            with_head(digits_graph, [(inputs[:64], targets)])
    with pytest.raises(InvalidInput, match="inputs must have shape"):
        with_head(digits_graph, [(torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 0, 1]))])
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 1)).eval()
    with pytest.raises(InvalidInput, match="needs a network that ends with a linear layer"):
        with_head(bw.capture(network, inputs[:2]), other)
