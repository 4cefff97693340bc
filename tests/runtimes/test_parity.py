"""The exported file gives the same predictions, whatever operations, placements and widths it holds."""

from __future__ import annotations

import math
import os
import random
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bitwright.errors import PolicyMismatch
from bitwright.graph import calibrate, capture
from bitwright.graph.pt2e import edge_quantizer
from bitwright.runtimes import export, parity, predict
from bitwright.runtimes.parity import _Apart
from bitwright.tasks import evaluate, wilson
from bitwright.values import FLOAT, Policy

CLASSES = "classification"  # without targets it cannot be inferred


def mixed(sites, seed, low=2, high=8):
    drawn = random.Random(seed)
    return Policy({site.name: drawn.randint(low, high) for site in sites}, name=f"mixed {seed}")


@pytest.mark.parametrize(
    "name", ["conv", "residual", "updown", "attention", "mlp", "signal", "gpt2", "video", "pairs", "bag"]
)
def test_every_kind_of_operation_gives_the_same_numbers_with_optimisations_off(captured, tmp_path, name):
    graph, inputs = captured(name)
    result = export(graph, tmp_path / "model.onnx", policy=mixed(graph.sites, 1))
    found = parity(graph, result.path, [(inputs, None)], task=CLASSES if graph(inputs[:1]).dim() == 2 else "dense")
    assert found.exact_agreement == 1.0
    assert found.exact_difference <= (1e-5 if found.step is None else 1.0)
    assert found.fused_agreement >= 0.9
    assert found.samples == len(inputs)


@settings(max_examples=3, deadline=None)
@given(st.data())
def test_any_policy_gives_the_same_predictions(captured, tmp_path_factory, data):
    graph, inputs = captured("residual")
    widths = st.one_of(st.none(), st.integers(2, 8))
    policy = Policy({site.name: data.draw(widths, label=site.name) for site in graph.sites})
    result = export(graph, tmp_path_factory.mktemp("any") / "model.onnx", policy=policy)
    found = parity(graph, result.path, [(inputs, None)], task=CLASSES)
    assert found.exact_agreement == 1.0
    assert found.fused_agreement >= 0.95


@pytest.mark.parametrize(
    ("key", "quantizer"),
    [
        ("tensor", lambda: edge_quantizer("tensor")),
        ("group", lambda: edge_quantizer("group", group_size=8)),
        ("symmetric", lambda: edge_quantizer(symmetric_activations=True)),
        ("x86", lambda: "x86"),
    ],
)
def test_other_placements_and_granularities_agree_too(captured, tmp_path, key, quantizer):
    graph, inputs = captured("residual", quantizer(), key)
    result = export(graph, tmp_path / "model.onnx", policy=Policy.uniform(graph.sites, 4, 8))
    found = parity(graph, result.path, [(inputs, None)], task=CLASSES)
    assert found.exact_agreement == 1.0
    assert found.exact_difference <= 1e-5
    assert found.fused_agreement >= 0.98


@pytest.mark.parametrize(("weights", "activations"), [(16, 16), (None, 8), (5, None)])
def test_wide_and_float_sites_agree(captured, tmp_path, weights, activations):
    graph, inputs = captured("residual")
    result = export(graph, tmp_path / "model.onnx", policy=Policy.uniform(graph.sites, weights, activations))
    found = parity(graph, result.path, [(inputs, None)], task=CLASSES)
    # With them on too: nothing that the policy left in float may be rounded by the runtime.
    for agreement, difference in (
        (found.exact_agreement, found.exact_difference),
        (found.fused_agreement, found.fused_difference),
    ):
        assert agreement == 1.0
        assert difference <= 2e-4


def test_probabilities_above_the_grid_saturate(captured, tmp_path):
    graph, inputs = captured("mlp")
    with graph.applied(Policy.uniform(graph.sites, 8, 8)), torch.no_grad():
        result = export(graph, tmp_path / "model.onnx")
        fused = predict(result.path, [inputs * 40])
        assert (fused - graph(inputs * 40)).abs().max() <= 0.02


def test_values_are_compared_as_float64_says(captured, tmp_path):
    graph, inputs = captured("residual")
    result = export(graph, tmp_path / "model.onnx", policy=Policy.uniform(graph.sites, 8, 8))
    other = graph.copy()
    other.module.head.weight.data.mul_(1.5)  # the file holds other weights now
    found = parity(other, result.path, [(inputs[:40], None), (inputs[40:], None)], task=CLASSES)
    with other.applied(Policy.uniform(graph.sites, 8, 8)), torch.no_grad():
        simulated, file = other(inputs).double(), predict(result.path, [inputs]).double()
    apart = (file - simulated).norm() / simulated.norm()
    steps = (file - simulated).abs().max() * 255 / (simulated.max() - simulated.min())
    assert found.fused.relative_error == pytest.approx(float(apart), rel=1e-6)
    assert found.fused.sqnr == pytest.approx(-20 * math.log10(float(apart)), rel=1e-6)
    assert found.fused.steps == pytest.approx(float(steps), rel=1e-6)
    assert found.fused.steps > 1


def test_the_first_site_that_differs_is_named(captured, tmp_path):
    graph, inputs = captured("residual")
    policy = Policy.uniform(graph.sites, 8, 8)
    result = export(graph, tmp_path / "model.onnx", policy=policy)
    same = parity(graph, result.path, [(inputs, None)], task=CLASSES)
    assert (same.exact_drift, same.fused_drift) == (None, None)
    other = graph.copy()
    with graph.applied(policy):
        other.module.down.bias.data[3] += 5 * graph.quantizers["down"].grid(8).scale  # one of ten channels
    found = parity(other, result.path, [(inputs, None)], task=CLASSES)
    for drift in (found.exact_drift, found.fused_drift):
        assert (drift.site, drift.operation) == ("down", "conv2d")
        assert drift.steps == pytest.approx(5.0, abs=1.0)
        assert 0.09 < drift.share <= 0.1
        assert 0.4 < drift.middle <= 0.5  # anywhere between two steps


def test_the_sample_that_differs_most_shows_where_it_begins(captured, tmp_path):
    graph, inputs = captured("residual")
    inputs = torch.where(torch.arange(len(inputs)).reshape(-1, 1, 1, 1) < len(inputs) - 2, 0.0, inputs)
    policy = Policy.uniform(graph.sites, 8, 8)
    result = export(graph, tmp_path / "model.onnx", policy=policy)
    other = graph.copy()
    other.module.down.weight.mul_(1.5)  # zeros do not show it
    parts = [(inputs[:40], None), (inputs[40:], None)]
    found = parity(other, result.path, parts, task=CLASSES)
    assert found.fused_drift.site == "down"


def test_the_output_step_is_the_unit_of_the_difference(captured, tmp_path):
    graph, inputs = captured("updown")
    policy = Policy.uniform(graph.sites, 8, 6)
    result = export(graph, tmp_path / "model.onnx", policy=policy)
    found = parity(graph, result.path, [(inputs, None)], task="dense")
    assert found.step == pytest.approx(result.scales["sites"]["last"]["scale"])
    assert found.exact_difference == 0.0


def test_targets_give_the_accuracy_in_the_runtime(captured, tmp_path):
    graph, inputs = captured("residual")
    result = export(graph, tmp_path / "model.onnx", policy=Policy.uniform(graph.sites, 8, 8))
    predicted = predict(result.path, [inputs]).argmax(1)
    assert parity(graph, result.path, [(inputs, predicted)]).figure.value.value == 1.0
    assert parity(graph, result.path, [(inputs, (predicted + 1) % 5)]).figure.value.value == 0.0
    assert parity(graph, result.path, [(inputs, None)], task=CLASSES).figure is None


def test_a_file_of_another_graph_is_refused(captured, tmp_path):
    graph, inputs = captured("residual")
    result = export(graph, tmp_path / "model.onnx", policy=FLOAT)
    other, _ = captured("conv")
    with pytest.raises(PolicyMismatch, match="was exported from graph"):
        parity(other, result.path, [(inputs, None)])


def test_accuracy_has_the_intervals_of_evaluation(captured, tmp_path):
    graph, inputs = captured("residual")
    policy = Policy.uniform(graph.sites, 4, 8)
    result = export(graph, tmp_path / "model.onnx", policy=policy)
    targets = torch.randint(5, (len(inputs),))
    found = parity(graph, result.path, [(inputs, targets)])
    value = found.figure.value
    assert value == wilson(round(value.value * found.samples), found.samples)


def test_accuracy_of_positions_has_a_bootstrap_interval_over_the_inputs(tmp_path):
    torch.manual_seed(0)
    inputs = torch.randn(30, 3, 6, 6)
    graph = calibrate(capture(nn.Conv2d(3, 3, 1).eval(), inputs[:2]), [(inputs, None)])
    policy = Policy.uniform(graph.sites, 8, 8)
    result = export(graph, tmp_path / "model.onnx", policy=policy)
    batches = [(inputs[:10], inputs[:10].argmax(1)), (inputs[10:], inputs[10:].argmax(1))]
    found = parity(graph, result.path, batches)
    value, measured = found.figure.value, evaluate(graph, policy, batches).accuracy
    assert value.method == "bootstrap"
    assert (value.low, value.high) == pytest.approx((measured.low, measured.high), abs=0.01)


@pytest.mark.parametrize("outputs", [1, 3])
def test_a_regression_is_compared_by_value(tmp_path, outputs):
    torch.manual_seed(0)
    inputs = torch.randn(20, 4)
    graph = calibrate(capture(nn.Linear(4, outputs).eval(), inputs[:2]), [(inputs, None)])
    result = export(graph, tmp_path / "model.onnx", policy=Policy.uniform(graph.sites, 8, 8))
    found = parity(graph, result.path, [(inputs, torch.randn(20, outputs))])
    assert (found.agreement, found.exact_agreement, found.fused_agreement) == (None, None, None)
    assert (found.samples, found.figure.measure.name) == (20, "loss")
    assert found.exact_difference <= (1e-5 if found.step is None else 1.0)
    other = graph.copy()
    weight = next(site.name for site in other.sites.weights)
    other.quantizers[weight].weight.data.mul_(3)
    other.quantizers[weight].set_ranges("minmax", 100)
    moved = parity(other, result.path, [(inputs, torch.randn(20, outputs))])
    assert moved.exact_difference > 0.1
    with torch.no_grad(), other.applied(Policy.uniform(other.sites, 8, 8)):
        simulated = other(inputs).double()
    apart = (predict(result.path, [(inputs, None)]) - simulated).square().mean()
    assert moved.distance.value.value == pytest.approx(float(apart / simulated.var(0, correction=0).mean()), rel=1e-5)
    assert found.distance.value.value < 1e-3 < moved.distance.value.value


def test_equal_outputs_for_all_inputs_have_a_distance(tmp_path):
    model = nn.Linear(3, 2).eval()
    nn.init.zeros_(model.weight)
    inputs = torch.randn(9, 3)
    graph = calibrate(capture(model, inputs[:2]), [(inputs, None)])
    result = export(graph, tmp_path / "model.onnx", policy=Policy.uniform(graph.sites, 8, 8))
    found = parity(graph, result.path, [(inputs, torch.zeros(9, 2))])
    assert found.distance.value.value == 0.0


@pytest.fixture(scope="module")
def resnet20():
    data, weights = os.environ.get("BITWRIGHT_DATA"), os.environ.get("BITWRIGHT_WEIGHTS")
    if not data or not weights:
        pytest.skip("BITWRIGHT_DATA and BITWRIGHT_WEIGHTS are not set")
    from bitwright.data import load_data
    from bitwright.zoo import resnet20_cifar10

    sets = load_data(f"cifar10:{Path(data) / 'cifar10'}")
    graph = capture(resnet20_cifar10(), sets.calibration.read(0, 2)[0])
    return calibrate(graph, sets.calibration.batches(128, limit=512)), sets.evaluation


@pytest.mark.parametrize("widths", [(8, 8), "mixed"])
def test_resnet20_predicts_the_same_on_every_test_image(resnet20, tmp_path, widths):
    graph, evaluation = resnet20
    policy = mixed(graph.sites, 0) if widths == "mixed" else Policy.uniform(graph.sites, *widths)
    result = export(graph, tmp_path / "model.onnx", policy=policy)
    found = parity(graph, result.path, evaluation.batches(94))
    assert found.samples == len(evaluation)
    assert found.exact_agreement == 1.0
    assert found.fused_agreement >= 0.995


def test_infinite_values_are_equal_to_themselves_and_nan_to_nothing():

    masked, apart = torch.tensor([1.0, -math.inf, 3.0], dtype=torch.float64), _Apart()
    assert not apart.add(masked, masked.clone()).any()
    assert apart.closeness(None).sqnr is None
    apart.add(masked, masked + torch.tensor([0.0, 0.0, 0.5], dtype=torch.float64))
    found = apart.closeness(None)
    assert found.steps == pytest.approx(0.5 * 255 / 2)
    assert found.relative_error == pytest.approx(0.5 / math.sqrt(20))
    assert apart.add(masked, torch.full_like(masked, math.nan)).isinf().all()
