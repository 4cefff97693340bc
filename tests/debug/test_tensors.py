from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.debug.tensors import tensor_view
from bitwright.errors import InvalidData, InvalidInput, InvalidPolicy
from bitwright.numerics.affine import Affine
from bitwright.values.tensors import TensorView


@pytest.fixture(scope="module")
def convolution():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 1)).eval()
    with torch.no_grad():
        model[0].weight[2] *= 20
        model[0].weight[4] = 0
        model[0].bias[4] = 0
    x = torch.randn(16, 3, 8, 8)
    return bw.calibrate(bw.capture(model, x), [x], ranges="minmax"), [(x[:6], None), (x[6:], None)], model


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.norm = nn.LayerNorm(8)
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
        self.linear = nn.Linear(8, 8)

    def forward(self, tokens):
        x = self.norm(self.embed(tokens))
        x = x + self.attend(x, x, x, need_weights=False)[0]
        return self.linear(x).mean(1)


@pytest.fixture(scope="module")
def transformer():
    torch.manual_seed(0)
    tokens = torch.randint(11, (8, 5))
    model = Attention().eval()
    return bw.calibrate(bw.capture(model, tokens), [tokens]), [tokens]


def test_a_weight_by_channel_against_numpy(convolution):
    graph, _, model = convolution
    view = tensor_view(graph, "0.weight", bits=4)
    weight = model[0].weight.detach().double().numpy()
    assert view.kind == "weight"
    assert view.shape == (6, 3, 3, 3)
    assert (view.low, view.high) == (weight.min(), weight.max())
    assert view.deviation == pytest.approx(weight.std())
    assert view.kurtosis == pytest.approx(((weight - weight.mean()) ** 4).mean() / weight.std() ** 4)
    assert sum(view.counts) == weight.size
    assert len(view.steps) == 6
    channels = view.axis("output channel")
    np.testing.assert_allclose(channels.high, weight.max((1, 2, 3)))
    assert channels.widest(1) == (2,)
    assert channels.spread > 10
    grid = graph.quantizers["0.weight"].grid(4)
    rounded = np.clip(np.round(weight / grid.scale.double().numpy()), -8, 7) * grid.scale.double().numpy()
    noise = ((rounded - weight) ** 2).sum((1, 2, 3))
    expected = [10 * math.log10((weight[i] ** 2).sum() / noise[i]) if i != 4 else math.inf for i in range(6)]
    np.testing.assert_allclose(channels.sqnr, expected, rtol=1e-5)
    np.testing.assert_allclose(channels.to_zero, ((rounded == 0) & (weight != 0)).mean((1, 2, 3)))
    inputs = view.axis("input channel")
    np.testing.assert_allclose(inputs.low, weight.min((0, 2, 3)))
    assert channels.quantiles[2][2] == pytest.approx(np.median(weight[2]))


def test_clipped_values_and_the_grid(convolution):
    graph, data, _ = convolution
    site = graph.sites.activations[0].name
    quantizer = graph.quantizers[site]
    quantizer.fix(3, Affine(torch.tensor(0.5), torch.tensor(4.0), 0, 7))
    view = tensor_view(graph, site, data, bits=3, samples=10)
    x = torch.cat([x for x, _ in data])[:10].double().numpy()
    assert view.shape == (10, 3, 8, 8)
    assert view.grid() == (-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5)
    beyond = (np.round(x / 0.5) < -4) | (np.round(x / 0.5) > 3)
    assert beyond.any()
    assert view.clipped == pytest.approx(beyond.mean())
    assert view.to_zero == pytest.approx((np.abs(x) <= 0.25).mean())
    np.testing.assert_allclose(view.axis("channel").clipped, beyond.mean((0, 2, 3)))
    error = np.clip(np.round(x / 0.5), -4, 3) * 0.5 - x
    assert view.sqnr == pytest.approx(10 * math.log10((x**2).sum() / (error**2).sum()))
    quantizer.set_ranges("minmax")


def test_worst_channels_are_those_with_little_signal(convolution):
    graph, data, _ = convolution
    view = tensor_view(graph, "1", data, bits=8)
    channels = view.axis("channel")
    assert channels.size == 6
    assert channels.sqnr[4] == math.inf  # always zero: nothing to lose
    assert channels.worst(5)[-1] == 2  # the widest channel sets the grid and suffers least
    assert channels.widest(1) == (2,)


def test_tokens_heads_and_embedding_dimensions(transformer):
    graph, data = transformer
    seen = {}
    for site in graph.sites:
        view = tensor_view(graph, site.name, data)
        seen[site.name] = [axis.name for axis in view.axes]
        for axis in view.axes:
            assert axis.size == view.shape[axis.axis]
    assert seen["embed.weight"] == ["token", "embedding"]
    assert seen["norm"] == ["token", "embedding"]
    assert seen["linear.weight"] == ["output channel", "input channel"]
    assert ["head", "token", "embedding"] in seen.values()
    norm = tensor_view(graph, "norm", data)
    with torch.no_grad():
        kept = []
        handle = graph.quantizers["norm"].register_forward_hook(lambda module, given, result: kept.append(given[0]))
        graph(data[0])
        handle.remove()
    np.testing.assert_allclose(norm.axis("token").high, kept[0].amax((0, 2)).double().numpy())
    np.testing.assert_allclose(norm.axis("embedding").low, kept[0].amin((0, 1)).double().numpy())


def test_patches_are_tokens_and_conv1d_channels_are_channels():
    class Patches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch = nn.Conv2d(3, 8, 4, 4)
            self.act = nn.GELU()
            self.linear = nn.Linear(8, 3)

        def forward(self, x):
            return self.linear(self.act(self.patch(x).flatten(2).transpose(1, 2)) * 2.0).mean(1)

    x = torch.randn(4, 3, 8, 8)
    graph = bw.calibrate(bw.capture(Patches().eval(), x), [x])
    assert [a.name for a in tensor_view(graph, "patch", [x]).axes] == ["channel"]
    assert [a.name for a in tensor_view(graph, "act", [x]).axes] == ["token", "embedding"]
    model = nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3)).eval()
    x = torch.randn(4, 2, 8)
    graph = bw.calibrate(bw.capture(model, x), [x])
    assert [a.name for a in tensor_view(graph, "1", [x]).axes] == ["channel"]


def test_groups_of_a_weight(transformer):
    torch.manual_seed(0)
    x = torch.randn(4, 10)
    graph = bw.capture(nn.Linear(10, 3).eval(), x, quantizer=bw.edge_quantizer("group", group_size=4))
    view = tensor_view(graph, graph.sites.weights[0].name, bits=4)
    assert len(view.steps) == 9  # three channels of three groups
    assert 0 <= view.clipped < 0.2
    assert view.sqnr > 10


def test_to_json_and_back(convolution):
    graph, data, _ = convolution
    for site in graph.sites:
        view = tensor_view(graph, site.name, data, 4)
        assert TensorView.from_json(view.to_json()) == view
    with pytest.raises(InvalidInput, match="bitwright must be 'tensor view', got 'policy'"):
        TensorView.from_dict({"bitwright": "policy", "version": 1})


def test_the_policy_is_left_as_it_was(convolution):
    graph, data, _ = convolution
    policy = bw.Policy.uniform(graph.sites, weights=2, activations=2)
    free = tensor_view(graph, "1", data)
    with graph.applied(policy):
        assert tensor_view(graph, "1", data) == free  # values of the float network
        assert graph.policy == policy


def test_bad_input_is_one_line(convolution):
    graph, data, _ = convolution
    with pytest.raises(InvalidInput, match="site '1' is an activation; pass batches"):
        tensor_view(graph, "1")
    with pytest.raises(InvalidInput, match="site '0.wieght' is not in this graph"):
        tensor_view(graph, "0.wieght")
    with pytest.raises(InvalidPolicy, match="between 2 and 16, got 1"):
        tensor_view(graph, "0.weight", bits=1)
    with pytest.raises(InvalidData, match="looking at a tensor needs at least one batch"):
        tensor_view(graph, "1", [])
    with pytest.raises(InvalidInput, match="samples must be at least 1"):
        tensor_view(graph, "1", data, samples=0)
    with pytest.raises(InvalidInput, match="has axes channel, not 'tokne'"):
        tensor_view(graph, "1", data).axis("tokne")
    fresh = bw.capture(nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)).eval(), torch.randn(2, 3))
    with pytest.raises(InvalidInput, match="has no range yet"):
        tensor_view(fresh, fresh.sites.activations[0].name, [torch.randn(2, 3)])
