"""Strategies of training: what they make of a batch."""

from __future__ import annotations

import pytest
import torch

import bitwright as bw
from bitwright.errors import InvalidData, InvalidInput
from bitwright.numerics.randomness import seeded
from bitwright.train import STRATEGIES, adversarial, mixup, qat
from bitwright.train.strategy import named_strategy

WEIGHT = torch.tensor([1.0, -2.0, 0.5])


class Linear:
    """A lesson whose loss is linear in the inputs; keeps what it was asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, inputs, *targets):
        self.asked.append((inputs, targets))
        return (inputs[0] * WEIGHT).sum(1)


def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(8, 3, generator=generator), torch.arange(8)


@pytest.mark.parametrize("steps", [1, 7])
def test_an_attack_on_a_linear_loss_ends_in_the_corner(steps):
    x, y = batch()
    radius = 0.3 * x.std(correction=0)
    found = adversarial.function(Linear(), (x,), y, radius=0.3, steps=steps)
    assert torch.allclose(found, (x * WEIGHT).sum(1) + radius * WEIGHT.abs().sum(), atol=1e-5)


def test_an_attack_leaves_whole_numbers_alone_and_never_leaves_the_radius():
    x, y = batch()
    numbers = torch.arange(8)
    lesson = Linear()
    with seeded(0):
        adversarial.function(lesson, (x, numbers), y, radius=0.2, steps=3)
    limit = float(0.2 * x.std(correction=0)) + 1e-6
    for inputs, _ in lesson.asked:
        assert torch.equal(inputs[1], numbers)
        assert float((inputs[0] - x).detach().abs().max()) <= limit
    with pytest.raises(InvalidData, match="real numbers"):
        adversarial.function(lesson, (numbers,), y)


def test_mixup_mixes_inputs_and_targets_by_one_share():
    x, y = batch()
    lesson = Linear()
    with seeded(1):
        mixup.function(lesson, (x,), y, alpha=1.0)
    ((mixed,), ((share, first), (rest, others))) = lesson.asked[0]
    assert 0 < share < 1
    assert rest == pytest.approx(1 - share)
    assert torch.equal(first, y)
    assert sorted(others.tolist()) == y.tolist()
    assert not torch.equal(others, y)
    assert torch.allclose(mixed, share * x + rest * x[others], atol=1e-6)  # the targets number the samples
    with pytest.raises(InvalidData, match="real numbers"):
        mixup.function(lesson, (y,), y)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mixup?beta=1", "strategy 'mixup' has no option 'beta'"),
        ("mixing", "strategy must be one of"),
    ],
)
def test_a_name_that_there_is_not(text, message):
    with pytest.raises(InvalidInput, match=message):
        named_strategy(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mixup?alpha=0", "alpha must be above 0, got 0"),
        ("adversarial?radius=-1", "radius must be above 0, got -1"),
        ("adversarial?steps=1.5", "steps must be a whole number of at least 1, got 1.5"),
    ],
)
def test_options_that_cannot_be_used(text, message):
    with pytest.raises(InvalidInput, match=message):
        named_strategy(text)(Linear(), (batch()[0],), None)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_quantized_network_learns_by_every_strategy(digits_graph, digits_data, name):
    inputs, targets = digits_data[0]
    batches = [(inputs[i : i + 64], targets[i : i + 64]) for i in range(0, 512, 64)]
    policy = bw.Policy.uniform(digits_graph.sites, 2, 4)
    before = bw.evaluate(digits_graph, policy, [digits_data[1]])
    qat(digits_graph, batches, policy, epochs=4, strategy=name, labels=0.1)
    assert bw.evaluate(digits_graph, policy, [digits_data[1]]).distance.value < 0.7 * before.distance.value
