"""A learned mixture of widths (a site of a supernet), written against the protocol of quantizers alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.errors import ExportError
from bitwright.numerics.ranges import Observed
from bitwright.quantizers.base import Quantizer
from bitwright.quantizers.uniform import ActivationQuantizer, WeightQuantizer
from bitwright.testing import QuantizerContract
from bitwright.values import Scheme, Site

WIDTHS = (2, 4, 8)


class Mixture(Quantizer):
    """What another quantizer makes of a tensor at several widths, weighed by a softmax, until one is chosen."""

    def __init__(self, of):
        super().__init__(of.site)
        self.of, self.chosen = of, False
        self.alpha = nn.Parameter(torch.zeros(len(WIDTHS)))

    def choose(self):
        self.chosen = True
        return WIDTHS[int(self.alpha.argmax())]

    @property
    def expected_bits(self):
        if self.bits is None or self.chosen:
            return self.bits
        return (self.alpha.softmax(0) * torch.tensor(WIDTHS, device=self.alpha.device)).sum()

    def quantize(self, tensor, bits):
        if self.chosen:
            return self.of.quantize(tensor, bits)
        shares = self.alpha.softmax(0)
        return sum(share * self.of.quantize(tensor, width) for share, width in zip(shares, WIDTHS, strict=True))

    def grid(self, bits):
        return self.of.grid(bits)

    def integers(self, bits, tensor=None):
        return self.of.integers(bits, tensor)

    @property
    def calibrated(self):
        return self.of.calibrated

    def check_range(self, bits):
        self.of.check_range(bits)

    @property
    def weight(self):
        return self.of.weight

    def hold(self, weight):
        self.of.hold(weight)

    def observe(self, seen):
        self.of.observe(seen)

    def set_ranges(self, method, percentile=99.99):
        self.of.set_ranges(method, percentile)

    def refit(self):
        self.of.refit()

    def reset(self):
        self.of.reset()

    def state(self, bits=()):
        return {**self.of.state({*bits, *WIDTHS}), "alpha": self.alpha.detach().clone()}

    def load(self, state):
        self.of.load(state)
        with torch.no_grad():
            self.alpha.copy_(state["alpha"])


def activation():
    quantizer = ActivationQuantizer(Site("relu", "activation", (1, 4), Scheme()))
    values = torch.randn(999, generator=torch.Generator().manual_seed(0)) + 0.5
    quantizer.observe(Observed(float(values.min()), float(values.max()), values, values.numel()))
    return quantizer


def weight():
    values = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    return WeightQuantizer(Site("conv.weight", "weight", (4, 6), Scheme(True, True, "channel", 0)), values)


class Mixing(QuantizerContract):
    widths = WIDTHS
    mixes = True


class TestActivations(Mixing):
    def make(self):
        return Mixture(activation())


class TestWeights(Mixing):
    def make(self):
        return Mixture(weight())


class TestChosen(QuantizerContract):
    widths = WIDTHS

    def make(self):
        quantizer = Mixture(weight())
        quantizer.choose()
        return quantizer


@pytest.fixture
def images():
    return torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def supernet(images):
    torch.manual_seed(2)
    layers = nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    graph = bw.calibrate(bw.capture(nn.Sequential(*layers).eval(), images[:2]), [(images, None)])
    graph.apply(bw.Policy.uniform(graph.sites, 8, 8))
    for name in graph.sites.names:
        graph.put(name, Mixture(graph.quantizers[name]))
    return graph


def expected_bits(graph):
    return sum(site.numel * graph.quantizers[site.name].expected_bits for site in graph.sites.weights)


def search(graph, images, pressure):
    """A few steps of loss plus pressure x expected bits; the losses and expected bits of each step."""
    with torch.no_grad(), graph.applied(bw.FLOAT):
        wanted = graph(images)
    optimizer = torch.optim.Adam([quantizer.alpha for quantizer in graph.quantizers.values()], 0.2)
    found = []
    for _ in range(8):
        loss, bits = (graph(images) - wanted).square().mean(), expected_bits(graph)
        optimizer.zero_grad()
        (loss + pressure * bits).backward()
        optimizer.step()
        found.append((float(loss.detach()), float(bits.detach())))
    return found


def test_shares_are_learned_from_the_loss(supernet, images):
    (first, bits), *_, (last, more) = search(supernet, images, 0.0)
    assert last < 0.6 * first
    assert more > bits
    assert [quantizer.choose() for quantizer in supernet.quantizers.values()].count(8) >= 3


def test_shares_are_learned_from_what_the_widths_cost(supernet, images):
    (_, bits), *_, (_, fewer) = search(supernet, images, 1.0)
    assert fewer < 0.6 * bits
    assert supernet.quantizers["0.weight"].choose() == 2


def test_a_mixture_is_not_exported_and_a_chosen_width_is(supernet, images, tmp_path):
    pytest.importorskip("onnxruntime")
    search(supernet, images, 0.01)
    with pytest.raises(ExportError, match=r"site '0.weight' mixes several widths, .* bits on average; .*choose one"):
        bw.export(supernet, tmp_path / "model.onnx")
    chosen = {name: quantizer.choose() for name, quantizer in supernet.quantizers.items()}
    policy = bw.Policy(chosen, graph_hash=supernet.graph_hash)
    bw.export(supernet.apply(policy), tmp_path / "model.onnx")
    parity = bw.parity(supernet, tmp_path / "model.onnx", [(images, None)], task="classification")
    assert parity.exact_agreement == 1.0
    assert parity.exact_difference == 0
    for name in supernet.sites.names:
        supernet.put(name, supernet.quantizers[name].of)
    plain = bw.parity(supernet, tmp_path / "model.onnx", [(images, None)], task="classification")
    assert plain.exact_difference == 0
