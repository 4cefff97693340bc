"""The scores that others are compared with: closed forms, and brute force in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from bitwright.errors import InvalidInput
from bitwright.graph import calibrate, capture
from bitwright.sensitivity import sensitivities, sensitivity
from bitwright.sensitivity.hessian_trace import trace_estimates
from bitwright.sensitivity.noise import noise_of_sites
from bitwright.values import FLOAT, Policy


def squared_error(outputs, targets):
    return 0.5 * (outputs[:, 0] - targets).square()


def cross_entropy(outputs, targets):
    return functional.cross_entropy(outputs, targets, reduction="none")


class Smooth(nn.Module):
    """Two layers, the first of which runs twice."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 3, bias=False), nn.Linear(3, 2, bias=False)

    def forward(self, x):
        return self.last(torch.tanh(self.first(torch.tanh(self.first(x)))))


@pytest.fixture
def smooth():
    torch.manual_seed(1)
    model = Smooth().double().eval()
    inputs, targets = torch.randn(6, 3, dtype=torch.float64), torch.randint(2, (6,))
    return calibrate(capture(model, inputs[:2]), [(inputs, targets)]), model, inputs, targets


def sizes(outputs):
    return 4.0 * outputs.square().sum(1)


def brute_trace(model, inputs):
    """Traces of the Hessian of the mean loss by both weights and, summed over the samples, by the inputs."""

    def loss(x, first, last):
        named = {"first.weight": first, "last.weight": last}
        return sizes(torch.func.functional_call(model, named, (x,))).mean()

    at = (inputs, model.first.weight.detach(), model.last.weight.detach())
    hessian = torch.autograd.functional.hessian(loss, at)
    return {
        name: float(hessian[i][i].reshape(at[i].numel(), -1).trace())
        for i, name in enumerate(("x", "first.weight", "last.weight"))
    }


class TestHessianTrace:
    def test_linear_regression_has_the_traces_of_the_textbook(self):
        """The Hessian of (w x - y)^2 / 2 is x x^T by the weight and w w^T by the input."""
        torch.manual_seed(0)
        model = nn.Linear(5, 1, bias=False).double().eval()
        inputs, targets = torch.randn(640, 5, dtype=torch.float64), torch.randn(640, dtype=torch.float64)
        graph = calibrate(capture(model, inputs[:2]), [(inputs, targets)])
        table = sensitivity(graph, [(inputs, targets)], "hessian-trace", (2, 4), loss=squared_error)
        weight = model.weight.detach()
        expected = np.array([float(weight.square().sum()), float(inputs.square().sum(1).mean())])
        assert table.sites == ("input", "weight")
        error = table.parts["trace_standard_error"]
        assert (np.abs(table.parts["trace"] - expected) < 4 * error).all()
        assert (error < 0.25 * expected).all()
        noise = noise_of_sites(graph, (2, 4))
        np.testing.assert_allclose(table.harm, table.parts["trace"][:, None] * noise, rtol=1e-12)
        np.testing.assert_allclose(table.standard_error, error[:, None] * noise, rtol=1e-12)
        assert table.samples == 640
        assert not table.doubts

    def test_estimates_of_a_network_are_around_the_brute_force_hessian(self, smooth):
        """Of a weight that is used twice, and of activations sample by sample."""
        graph, model, inputs, _ = smooth
        exact = brute_trace(model, inputs)
        generator = torch.Generator().manual_seed(0)
        with graph.applied(FLOAT):
            found = np.stack(list(trace_estimates(graph, (inputs,), sizes, 400, generator)))
        error = found.std(0, ddof=1) / 400**0.5
        for site, value in exact.items():
            row = graph.sites.names.index(site)
            assert abs(found[:, row].mean() - value) < 4 * error[row]
            assert error[row] < 0.4 * abs(value)

    def test_a_tolerance_ends_it(self):
        torch.manual_seed(0)
        model, inputs = nn.Linear(5, 1, bias=False).double().eval(), torch.randn(640, 5, dtype=torch.float64)
        graph = calibrate(capture(model, inputs[:2]), [(inputs, inputs[:, 0])])
        few = sensitivity(graph, [(inputs, inputs[:, 0])], "hessian-trace", (4,), tolerance=0.4, loss=squared_error)
        assert 32 <= few.samples < 640
        assert (few.parts["trace_standard_error"] <= 0.4 * few.parts["trace"]).all()

    def test_a_trace_below_zero_is_no_harm_and_doubted(self):
        """-w^2 x^2 / 2 has the second derivatives -x^2 and -w^2."""
        torch.manual_seed(0)
        model, inputs = nn.Linear(1, 1, bias=False).double().eval(), torch.randn(64, 1, dtype=torch.float64)
        graph = calibrate(capture(model, inputs[:2]), [(inputs, inputs[:, 0])])
        table = sensitivity(
            graph, [(inputs, inputs[:, 0])], "hessian-trace", (4,), loss=lambda o, t: -0.5 * o[:, 0].square()
        )
        assert (table.harm == 0).all()
        assert (table.parts["trace"] < 0).all()
        assert table.doubts == dict.fromkeys(table.sites, "the Hessian's trace is not positive")

    def test_the_policy_and_the_weights_stay(self, digits_graph, digits_data):
        policy = Policy.uniform(digits_graph.sites, 4, 8)
        digits_graph.apply(policy)
        sensitivity(digits_graph, [digits_data[0]], "hessian-trace", (4,), samples=16)
        assert digits_graph.policy == policy
        assert all(p.grad is None for p in digits_graph.module.parameters())

    def test_attention_is_differentiated_twice(self):
        class Attention(nn.Module):
            def __init__(self):
                super().__init__()
                self.q, self.out = nn.Linear(4, 4), nn.Linear(4, 2)

            def forward(self, x):
                q = self.q(x)
                return self.out(functional.scaled_dot_product_attention(q, x, x).mean(1))

        torch.manual_seed(0)
        inputs, targets = torch.randn(8, 5, 4), torch.randint(2, (8,))
        graph = calibrate(capture(Attention().eval(), inputs[:2]), [(inputs, targets)])
        assert (sensitivity(graph, [(inputs, targets)], "hessian-trace", (4,)).standard_error > 0).all()

    def test_what_has_no_second_derivative_says_the_way_out(self, digits_graph, digits_data):
        class First(torch.autograd.Function):
            @staticmethod
            def forward(context, value):
                return value * 1.0

            @staticmethod
            def backward(context, gradient):
                return Second.apply(gradient)

        class Second(First):
            @staticmethod
            def backward(context, gradient):
                raise NotImplementedError("there is none")

        with pytest.raises(InvalidInput, match=r"differentiated twice \(.*there is none\); use method='fit'"):
            sensitivity(
                digits_graph,
                [digits_data[0]],
                "hessian-trace",
                (4,),
                samples=8,
                loss=lambda o, t: cross_entropy(First.apply(o), t),
            )


def test_the_bit_ratio_is_float_bits_over_bits(digits_graph, digits_data):
    table = sensitivity(digits_graph, [digits_data[0]], "bit-ratio", (2, 4, 8))
    np.testing.assert_array_equal(table.harm, np.tile([15.0, 7.0, 3.0], (len(table.sites), 1)))


def test_sqnr_is_noise_over_signal(digits_graph, digits_data):
    table = sensitivity(digits_graph, [digits_data[0]], "sqnr", (3, 8))
    for name, quantizer in digits_graph.quantizers.items():
        values = (quantizer.weight.detach() if name.endswith("weight") else quantizer.observed.sample).double()
        for bits in (3, 8):
            error = quantizer.rounded(bits, values.float()).double() - values
            decibels = 10 * np.log10(float(values.square().mean() / error.square().mean()))
            assert table.at(name, bits) == pytest.approx(10 ** (-decibels / 10), rel=1e-5)


def test_a_tensor_of_zeros_loses_nothing_by_sqnr():
    model = nn.Linear(2, 2, bias=False).eval()
    nn.init.zeros_(model.weight)
    inputs = torch.randn(8, 2)
    graph = calibrate(capture(model, inputs[:2]), [(inputs, torch.zeros(8).long())])
    assert sensitivity(graph, [(inputs, torch.zeros(8).long())], "sqnr", (4,)).at("weight", 4) == 0.0


@pytest.mark.parametrize("transposed", [False, True])
def test_bn_scale_divides_by_the_scale_behind_the_layer(transposed):
    torch.manual_seed(0)
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    model = nn.Sequential(
        kind(4, 4, 3, padding=1, groups=2, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 2, 1),
        nn.AvgPool2d(8),
        nn.Flatten(),
    )
    gamma = model[1].weight.data = torch.tensor([1.0, 2.0, -3.0, 0.5])
    inputs, targets = torch.randn(16, 4, 8, 8), torch.randint(2, (16,))
    graph = calibrate(capture(model.eval(), inputs[:2]), [(inputs, targets)])
    scaled, noise = sensitivities(graph.copy(), [(inputs, targets)], ("bn-scale", "noise"), (2, 4))
    square = float(gamma.square().mean())
    ratio = dict(zip(scaled.sites, (noise.harm / scaled.harm).mean(1), strict=True))
    assert ratio["0.weight"] == pytest.approx(square)
    assert ratio["2"] == pytest.approx(square)
    assert ratio["3.weight"] == pytest.approx(1.0)
    assert ratio[scaled.sites[0]] == pytest.approx(1.0)


def test_without_batch_norm_bn_scale_says_so(smooth):
    graph, _, inputs, targets = smooth
    scaled, noise = sensitivities(graph, [(inputs, targets)], ("bn-scale", "noise"), (4,))
    np.testing.assert_array_equal(scaled.harm, noise.harm)
    assert "no layer has a batch norm" in scaled.notes[-1]
