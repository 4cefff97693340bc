from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from bitwright.errors import InvalidData, InvalidInput, PolicyMismatch
from bitwright.graph import calibrate, capture
from bitwright.tasks import evaluate
from bitwright.values import FLOAT, Policy, Verdict


def squared(outputs, targets):
    return (outputs - targets).square()


def network(outputs, samples=60):
    torch.manual_seed(outputs)
    model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, outputs)).eval()
    inputs = torch.randn(samples, 5)
    with torch.no_grad():
        targets = model(inputs) + 0.3 * torch.randn(samples, outputs)
    batches = list(zip(inputs.split(25), targets.split(25), strict=True))
    return calibrate(capture(model, inputs[:2]), batches), batches


@pytest.mark.parametrize("outputs", [1, 4])
def test_every_figure_is_what_its_definition_gives(outputs):
    graph, batches = network(outputs)
    policy = Policy.uniform(graph.sites, 4, 4)
    found = evaluate(graph, policy, batches, loss=squared, metric={"mae": lambda z, y: float((z - y).abs().mean())})
    inputs, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
    with torch.no_grad(), graph.applied(policy):
        ours = graph(inputs).double().numpy()
    with torch.no_grad(), graph.applied(FLOAT):
        floats = graph(inputs).double().numpy()
    wanted = targets.double().numpy()
    noise = ((ours - floats) ** 2).mean()
    assert found.sqnr.value == pytest.approx(10 * math.log10(floats.var(axis=0).mean() / noise), rel=1e-6)
    assert found.loss.value == pytest.approx(((ours - wanted) ** 2).mean(), rel=1e-5)
    assert found.float_loss.value == pytest.approx(((floats - wanted) ** 2).mean(), rel=1e-5)
    assert found.loss_change.value == pytest.approx(found.loss.value - found.float_loss.value)
    assert found.figures["mae"].value.value == pytest.approx(np.abs(ours - wanted).mean(), rel=1e-5)
    assert found.figures["mae"].reference.value == pytest.approx(np.abs(floats - wanted).mean(), rel=1e-5)
    for interval in (found.sqnr, found.loss, found.float_loss, found.loss_change):
        assert interval.low < interval.value < interval.high
    assert found.samples == 60
    assert found.policy_name == policy.name


def test_an_offset_of_all_outputs_is_no_signal():
    graph, batches = network(2)
    policy = Policy.uniform(graph.sites, 4, None)
    plain = evaluate(graph, policy, batches, loss=squared).sqnr.value
    graph.module.get_parameter("2.bias").data.add_(1000)
    moved = evaluate(graph, policy, batches, loss=squared).sqnr.value
    assert moved == pytest.approx(plain, abs=0.1)


def test_more_bits_lose_less_and_float_loses_nothing():
    graph, batches = network(3)
    found = [evaluate(graph, Policy.uniform(graph.sites, b, b), batches, loss=squared).sqnr.value for b in (3, 8)]
    assert found[0] + 10 < found[1]
    exact = evaluate(graph, FLOAT, batches, loss=squared)
    assert math.isinf(exact.sqnr.value)
    assert exact.loss_change.value == 0


@pytest.mark.parametrize("bits", [4, None])
def test_verdicts_survive_json(bits):
    graph, batches = network(1)
    found = evaluate(graph, Policy.uniform(graph.sites, bits, bits), batches, loss=squared)
    text = json.dumps(found.to_dict(), allow_nan=False)
    assert Verdict.from_dict(json.loads(text)) == found


def test_targets_and_outputs_can_have_positions():
    torch.manual_seed(0)
    inputs = torch.randn(12, 3, 6, 6)
    batches = [(inputs, inputs.mean(1, keepdim=True))]
    graph = calibrate(capture(nn.Conv2d(3, 1, 3, padding=1).eval(), inputs[:2]), batches)
    found = evaluate(graph, Policy.uniform(graph.sites, 8, 8), batches, loss=squared)
    assert found.sqnr.value > 20


@pytest.mark.parametrize(
    ("loss", "change", "error", "message"),
    [
        (
            lambda z, y: (z - y).square().mean(),
            lambda b: b,
            InvalidInput,
            r"one number per sample, shape \(25,\)",
        ),
        (lambda z, y: (z - y) / 0, lambda b: b, InvalidData, "the loss is not finite"),
        (squared, lambda b: [(b[0][0][:1], b[0][1][:1])], InvalidData, "at least 2 samples"),
        (squared, lambda b: [x for x, _ in b], InvalidData, "targets are needed here"),
        (squared, lambda b: [(x * 0, y) for x, y in b], InvalidData, "the same outputs for all inputs"),
    ],
)
def test_what_cannot_be_measured_is_refused(loss, change, error, message):
    graph, batches = network(1)
    with pytest.raises(error, match=message):
        evaluate(graph, Policy.uniform(graph.sites, 4, 4), change(batches), "regression", loss=loss)


def test_a_policy_of_another_graph_is_refused():
    graph, batches = network(1)
    with pytest.raises(PolicyMismatch):
        evaluate(graph, Policy({}, "0" * 16), batches, loss=squared)
