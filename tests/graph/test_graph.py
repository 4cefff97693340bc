from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

from bitwright.errors import InvalidInput, InvalidPolicy, PolicyMismatch
from bitwright.graph import calibrate, capture
from bitwright.quantizers import uniform
from bitwright.values import FLOAT, Policy


@pytest.fixture
def images(digits_data):
    return digits_data[1][0][:40]


def run(graph, images):
    with torch.no_grad():
        return graph(images)


def test_applying_and_undoing_leaves_the_float_outputs_bit_for_bit(digits_graph, images):
    before = run(digits_graph, images)
    weights = {n: digits_graph.weight(n).clone() for n in digits_graph.sites.names if n.endswith("weight")}
    for bits in (2, 4, 16):
        digits_graph.apply(Policy.uniform(digits_graph.sites, bits, bits))
        assert not torch.equal(run(digits_graph, images), before)
    digits_graph.apply(FLOAT)
    assert torch.equal(run(digits_graph, images), before)
    assert all(torch.equal(digits_graph.weight(n), w) for n, w in weights.items())


def test_the_same_policy_gives_the_same_outputs_whatever_came_between(digits_graph, images):
    policy = Policy.uniform(digits_graph.sites, 4, 6)
    first = run(digits_graph.apply(policy), images)
    run(digits_graph.apply(Policy.uniform(digits_graph.sites, 2, 3)), images)
    assert torch.equal(run(digits_graph.apply(policy), images), first)


def test_each_site_of_a_policy_rounds_and_no_other(digits_graph, images):
    seen = {}
    for name, quantizer in digits_graph.quantizers.items():
        quantizer.register_forward_hook(
            lambda m, arguments, result, name=name: seen.__setitem__(name, torch.equal(arguments[0], result))
        )
    policy = Policy({"layer1.conv1.weight": 3, "relu": 4})
    run(digits_graph.apply(policy), images)
    assert {name for name, same in seen.items() if not same} == set(policy)
    assert {n: q.bits for n, q in digits_graph.quantizers.items() if q.bits} == dict(policy.bits)


def test_more_bits_come_nearer_to_float(digits_graph, digits_data):
    images = digits_data[0][0][:40]  # of the calibration data: nothing is out of range
    exact = run(digits_graph, images)
    errors = [
        float((run(digits_graph.apply(Policy.uniform(digits_graph.sites, b, b)), images) - exact).square().mean())
        for b in (2, 3, 4, 6, 8, 12, 16)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-6 * float(exact.square().mean())


def test_a_policy_costs_no_pass_over_the_weights(digits_graph, images, monkeypatch):
    run(digits_graph.apply(Policy.uniform(digits_graph.sites, 4, 4)), images)
    calls = []
    original = uniform.fake_quantize
    monkeypatch.setattr(uniform, "fake_quantize", lambda *a: calls.append(a) or original(*a))
    digits_graph.apply(Policy.uniform(digits_graph.sites, 8, 8))
    assert not calls
    run(digits_graph, images)
    first = len(calls)
    assert first == len(digits_graph.sites)
    run(digits_graph, images)  # activations once more, weights not
    assert len(calls) == first + len(digits_graph.sites.activations)


def test_applied_is_undone_also_after_an_error(digits_graph):
    before = Policy.uniform(digits_graph.sites, 5, 5)
    digits_graph.apply(before)
    with digits_graph.applied(FLOAT) as inner:
        assert inner.policy == FLOAT
    assert digits_graph.policy == before
    with pytest.raises(ZeroDivisionError), digits_graph.applied(FLOAT):
        raise ZeroDivisionError
    assert digits_graph.policy == before
    with pytest.raises(InvalidPolicy), digits_graph.applied(Policy({"nowhere": 4})):
        pass
    assert digits_graph.policy == before


def test_a_refused_policy_changes_nothing(digits_graph, images):
    before = Policy.uniform(digits_graph.sites, 4, 4)
    expected = run(digits_graph.apply(before), images)
    for wrong in (Policy({"relu": 2, "rleu": 4}), Policy({"relu": 2}, graph_hash="0" * 16)):
        with pytest.raises((InvalidPolicy, PolicyMismatch)):
            digits_graph.apply(wrong)
    assert digits_graph.policy == before
    assert torch.equal(run(digits_graph, images), expected)


def test_messages_about_policies(digits_graph):
    with pytest.raises(InvalidPolicy, match="site 'rleu', which is not among the 15 sites.*did you mean 'relu'"):
        digits_graph.apply(Policy({"rleu": 4}))
    with pytest.raises(PolicyMismatch, match=f"made for graph 0000, this graph is {digits_graph.graph_hash}"):
        digits_graph.apply(Policy({"relu": 4}, graph_hash="0000"))


def test_before_calibration_weights_can_be_quantized_and_activations_cannot(digits_model, images):
    graph = capture(digits_model, images[:2])
    run(graph.apply(Policy.uniform(graph.sites, weights=4)), images)
    with pytest.raises(InvalidInput, match=r"site 'x' has no range yet; call bw.calibrate\(graph, batches\)"):
        graph.apply(Policy.uniform(graph.sites, 4, 4))


def test_biases_are_rounded_with_their_operation_only(digits_graph, images):
    biases = {quantizer.name: quantizer for quantizer in digits_graph.biases().values()}
    # A convolution without a bias got one from its batch norm, which torchao names after the weight.
    folded = {
        f"{layer}.weight_bias" for layer in ("conv1", "layer1.conv1", "layer1.conv2", "layer2.conv1", "layer2.conv2")
    }
    assert set(biases) == {*folded, "linear.bias"}
    rounded = {name: [] for name in biases}
    for name, module in biases.items():
        module.register_forward_hook(
            lambda m, arguments, result, name=name: rounded[name].append(not torch.equal(arguments[0], result))
        )
    run(digits_graph.apply(Policy({"conv1.weight": 4, "x": 8, "relu": 8})), images)
    assert [name for name, flags in rounded.items() if any(flags)] == ["conv1.weight_bias"]


def test_only_the_rounded_weight_is_held_besides_the_float_one(digits_graph, images):
    for bits in (2, 3, 4, 8):
        run(digits_graph.apply(Policy.uniform(digits_graph.sites, bits, bits)), images)
    quantizer = digits_graph.quantizers["layer2.conv2.weight"]
    own = [v for v in vars(quantizer).values() if isinstance(v, torch.Tensor)]
    assert not own
    assert quantizer._kept[0] is quantizer.grid(8)
    run(digits_graph.apply(FLOAT), images)
    assert quantizer._kept is None


def test_a_copy_is_independent(digits_graph, images):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        other = copy.deepcopy(digits_graph)
    policy = Policy.uniform(digits_graph.sites, 4, 4)
    before = run(digits_graph.apply(policy), images)
    assert torch.equal(run(other.apply(policy), images), before)
    with torch.no_grad():
        other.weight("conv1.weight").mul_(2)
    assert not torch.equal(run(other, images), before)
    assert torch.equal(run(digits_graph, images), before)


def test_a_weight_changed_in_place_takes_effect(digits_graph, images):
    policy = Policy.uniform(digits_graph.sites, 4, 4)
    before = run(digits_graph.apply(policy), images)
    with torch.no_grad():
        digits_graph.weight("layer1.conv1.weight").mul_(1.5)
    assert not torch.equal(run(digits_graph, images), before)
    with torch.no_grad():
        digits_graph.weight("layer1.conv1.weight").div_(1.5)
    torch.testing.assert_close(run(digits_graph, images), before, rtol=1e-3, atol=1e-3)


def test_weights_by_site(digits_graph):
    assert digits_graph.weight("conv1.weight").shape == (16, 1, 3, 3)
    with pytest.raises(InvalidInput, match="site 'relu' is an activation; it has no weight"):
        digits_graph.weight("relu")
    with pytest.raises(InvalidInput, match="site 'conv.weight' is not in this graph.*did you mean 'conv1.weight'"):
        digits_graph.weight("conv.weight")


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((torch.zeros(2, 1, 8, 9),), r"inputs must have shape \(batch, 1, 8, 8\), got \(2, 1, 8, 9\)"),
        ((torch.zeros(2, 3, 8, 8),), r"got \(2, 3, 8, 8\); capture the model again"),
        ((torch.zeros(1, 8, 8),), r"got \(1, 8, 8\)"),
        ((torch.zeros(2, 1, 8, 8), torch.zeros(2)), "the graph takes 1 inputs, got 2"),
        ((), "the graph takes 1 inputs, got 0"),
    ],
)
def test_inputs_of_the_wrong_shape(digits_graph, inputs, message):
    with pytest.raises(InvalidInput, match=message):
        digits_graph(*inputs)


def test_inputs_may_come_as_one_tuple(digits_graph, images):
    assert torch.equal(run(digits_graph, (images,)), run(digits_graph, images))


def test_the_batch_is_free_under_a_policy_too(digits_graph, images):
    digits_graph.apply(Policy.uniform(digits_graph.sites, 4, 4))
    whole = run(digits_graph, images)
    for size in (1, 2, 7):
        parts = torch.cat([run(digits_graph, part) for part in images.split(size)])
        torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-4)


def test_gradients_reach_the_input_through_all_quantizers(digits_graph, images):
    digits_graph.apply(Policy.uniform(digits_graph.sites, 8, 8))
    inputs = images.clone().requires_grad_()
    digits_graph(inputs).sum().backward()
    digits_graph.apply(FLOAT)
    other = images.clone().requires_grad_()
    digits_graph(other).sum().backward()
    cosine = nn.functional.cosine_similarity(inputs.grad.flatten(1), other.grad.flatten(1))
    assert (cosine > 0.8).all()


def test_moving_to_a_device_keeps_the_outputs(digits_graph, images):
    policy = Policy.uniform(digits_graph.sites, 4, 4)
    before = run(digits_graph.apply(policy), images)
    assert digits_graph.to("cpu") is digits_graph
    assert digits_graph.device == torch.device("cpu")
    assert torch.equal(run(digits_graph, images), before)


def test_a_graph_without_parameters_has_a_device():
    assert capture(nn.Sequential(nn.Flatten()).eval(), torch.zeros(2, 3)).device.type == "cpu"


def test_per_group_weights_run_in_a_whole_graph():
    from bitwright.graph.pt2e import edge_quantizer

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    inputs = torch.randn(20, 10)
    graph = calibrate(capture(model, inputs[:2], edge_quantizer("group", 4)), [(inputs, None)])
    with torch.no_grad():
        change = graph.apply(Policy.uniform(graph.sites, 8, 8))(inputs) - model(inputs)
    assert 0 < float(change.abs().max()) < 0.05
