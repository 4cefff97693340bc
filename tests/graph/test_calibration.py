from __future__ import annotations

import pytest
import torch
from torch import nn

from bitwright.errors import InvalidData, InvalidInput
from bitwright.graph import calibrate, capture
from bitwright.graph import calibration as calibration_module
from bitwright.settings import RANGES
from bitwright.values import FLOAT, Policy


@pytest.fixture
def data(digits_data):
    return digits_data[0]


def scales(graph, bits=4):
    return {n: float(q.grid(bits).scale.sum()) for n, q in graph.quantizers.items()}


@pytest.mark.parametrize("wrap", [list, iter, lambda b: (x for x in b), tuple])
def test_any_iterable_of_batches(wrap, digits_graph, data):
    batches = list(zip(data[0].split(100), data[1].split(100), strict=True))
    expected = scales(calibrate(digits_graph, batches))
    assert scales(calibrate(digits_graph, wrap(batches))) == expected


def test_a_data_loader_is_read_batch_by_batch(digits_graph, data):
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data), batch_size=100)
    expected = scales(calibrate(digits_graph, zip(data[0].split(100), data[1].split(100), strict=True)))
    assert scales(calibrate(digits_graph, loader)) == expected


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_it_sees_the_extremes_and_all_values_of_a_small_set(order, digits_graph, data):
    batches = data[0][:50].split(49)
    site = digits_graph.quantizers["layer1.conv2"]
    seen = []
    hook = site.register_forward_hook(lambda m, a, r: seen.append(a[0].detach()))
    calibrate(digits_graph, [batches[i] for i in order], ranges="minmax")
    hook.remove()
    values = torch.cat([v.flatten() for v in seen])
    assert site.observed.high == float(values.max())
    assert site.observed.low == float(values.min()) < 0
    assert site.observed.count == values.numel() == 50 * 16 * 64
    assert site.observed.sample.sort().values.tolist() == values.sort().values.tolist()


def test_a_large_set_is_sampled_and_keeps_its_extremes(digits_graph, data, monkeypatch):
    monkeypatch.setattr(calibration_module, "SAMPLE", 1000)
    calibrate(digits_graph, list(data[0].split(128)), ranges="minmax")
    observed = digits_graph.quantizers["relu"].observed
    assert observed.sample.numel() == 1000
    assert observed.count == 512 * 16 * 64
    whole = calibrate(digits_graph, [data[0]], ranges="minmax").quantizers["relu"].observed
    assert observed.high == whole.high


def test_it_watches_the_float_network_and_leaves_the_policy(digits_graph, data):
    expected = scales(calibrate(digits_graph, [data]))
    policy = Policy.uniform(digits_graph.sites, 2, 2)
    digits_graph.apply(policy)
    assert scales(calibrate(digits_graph, [data])) == expected
    assert digits_graph.policy == policy


def test_the_seed_decides_the_sample(digits_graph, data, monkeypatch):
    monkeypatch.setattr(calibration_module, "SAMPLE", 500)
    first, same, other = (scales(calibrate(digits_graph, [data], seed=s)) for s in (0, 0, 1))
    assert first == same
    assert first != other


def test_methods_differ_where_they_should(digits_graph, data):
    found = {m: scales(calibrate(digits_graph, [data], ranges=m), 4) for m in ("minmax", "mse")}
    found["percentile"] = scales(calibrate(digits_graph, [data], ranges="percentile", percentile=90.0), 4)
    activations = [s.name for s in digits_graph.sites.activations]
    assert sum(found["mse"][n] < found["minmax"][n] for n in activations) > len(activations) / 2
    assert all(found["percentile"][n] <= found["minmax"][n] for n in activations)
    assert found["percentile"] != found["minmax"]


def test_calibrating_again_forgets_what_was_seen_before(digits_graph, data):
    first = scales(calibrate(digits_graph, [data]))
    calibrate(digits_graph, [data[0] * 10])
    assert scales(digits_graph)["x"] > 5 * first["x"]
    assert scales(calibrate(digits_graph, [data])) == first


class TestBadInput:
    @pytest.mark.parametrize("batches", [[], iter([]), ()])
    def test_no_data(self, digits_graph, batches):
        with pytest.raises(InvalidData, match="batches are empty: calibration needs at least one batch"):
            calibrate(digits_graph, batches)

    def test_nan_in_the_data(self, digits_graph, data):
        inputs = data[0][:4].clone()
        inputs[2, 0, 3, 3] = float("nan")
        with pytest.raises(InvalidData, match="the inputs hold NaN or infinite values"):
            calibrate(digits_graph, [inputs])

    def test_an_activation_that_is_not_finite_is_named_and_nothing_is_kept(self):
        class Root(nn.Module):
            def forward(self, x):
                return torch.sqrt(x)

        model = nn.Sequential(nn.Linear(3, 3), Root(), nn.Linear(3, 2)).eval()
        graph = capture(model, torch.rand(2, 3))
        with torch.no_grad():
            graph.weight("0.weight").copy_(-torch.eye(3))
        calls_before = {n: getattr(q, "observed", None) for n, q in graph.quantizers.items()}
        policy = Policy({"0.weight": 4})
        graph.apply(policy)
        with pytest.raises(InvalidData, match="the activations at '1.sqrt' are not finite; check weights and inputs"):
            calibrate(graph, [torch.rand(5, 3) + 1])
        assert {n: getattr(q, "observed", None) for n, q in graph.quantizers.items()} == calls_before
        assert graph.policy == policy

    def test_the_wrong_shape(self, digits_graph):
        with pytest.raises(InvalidInput, match=r"inputs must have shape \(batch, 1, 8, 8\), got \(2, 1, 9, 9\)"):
            calibrate(digits_graph, [torch.zeros(2, 1, 9, 9)])
        assert digits_graph.policy == FLOAT

    def test_an_unknown_method(self, digits_graph, data):
        with pytest.raises(InvalidInput, match=f"ranges must be one of {', '.join(RANGES)}, got 'max'"):
            calibrate(digits_graph, [data], ranges="max")


class OverTheBatch(nn.Module):
    """Adds what a layer makes of the batch's mean."""

    def __init__(self, layer):
        super().__init__()
        self.first, self.layer = nn.Conv2d(3, 3, 1), layer

    def forward(self, x):
        x = self.first(x)
        mean = x.mean(0) if isinstance(self.layer, nn.Conv2d) else x.mean((0, 2, 3))
        return (x.mean((2, 3)) + self.layer(mean).reshape(3, -1).mean(1)) * 2


@pytest.mark.parametrize("layer", [nn.Linear(3, 3), nn.Conv2d(3, 3, 1)])
def test_a_model_that_mixes_the_samples_of_a_batch_is_refused_in_one_line(layer):
    x = torch.randn(10, 3, 4, 4)
    graph = capture(OverTheBatch(layer).eval(), x[:4])
    with pytest.raises(InvalidInput, match=r"layer 'layer' must give \(batch, \.\.\.\).*mixes the samples") as caught:
        calibrate(graph, [(x, None)])
    assert "\n" not in str(caught.value)
