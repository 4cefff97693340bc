"""A learned mixture of widths: its values and gradients, and a small supernet made of it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.errors import ExportError, InvalidInput
from bitwright.numerics.affine import fake_quantize
from bitwright.numerics.ranges import Observed
from bitwright.quantizers import mixture
from bitwright.quantizers.dynamic import DynamicQuantizer
from bitwright.quantizers.mixture import Mixture
from bitwright.quantizers.uniform import ActivationQuantizer, WeightQuantizer
from bitwright.testing import QuantizerContract
from bitwright.values import Scheme, Site

WIDTHS = (2, 4, 8)


def activation():
    quantizer = ActivationQuantizer(Site("relu", "activation", (1, 4), Scheme()))
    values = torch.randn(999, generator=torch.Generator().manual_seed(0)) + 0.5
    quantizer.observe(Observed(float(values.min()), float(values.max()), values, values.numel()))
    return quantizer


SCHEMES = {
    "channel": Scheme(True, True, "channel", 0),
    "tensor": Scheme(True, True, "tensor"),
    "group": Scheme(True, True, "group", 0, 4),
}


def weight(scheme=SCHEMES["channel"]):
    values = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    return WeightQuantizer(Site("conv.weight", "weight", (4, 6), scheme), values)


class Mixing(QuantizerContract):
    widths = WIDTHS
    mixes = True


class TestActivations(Mixing):
    def make(self):
        return Mixture(activation(), WIDTHS)


class TestWeights(Mixing):
    def make(self):
        return Mixture(weight(), WIDTHS)


class TestGroups(Mixing):
    def make(self):
        return Mixture(weight(SCHEMES["group"]), WIDTHS)


class Plain(Mixture):
    """The sum written down as it is, which keeps the result of every width."""

    def quantize(self, tensor, bits):
        if self.moves is not None:
            tensor = tensor + self.moves * self._step()
        shares = self.shares.to(tensor.dtype)
        return sum(a * fake_quantize(tensor, grid) for a, grid in zip(shares, self.grids, strict=True))


def of_both(of, seed=0):
    """A mixture and the plain sum with the same shares and moves, in float64."""
    generator = torch.Generator().manual_seed(seed)
    both = [kind(copy.deepcopy(of), WIDTHS).double() for kind in (Mixture, Plain)]
    with torch.no_grad():
        both[0].alpha.normal_(generator=generator)
        if both[0].moves is not None:
            both[0].moves.normal_(generator=generator)
        both[1].load_state_dict(both[0].state_dict())
    for quantizer in both:
        quantizer.bits = 8
    return both


@pytest.mark.parametrize("of", [activation(), *(weight(scheme) for scheme in SCHEMES.values())])
def test_values_and_gradients_are_those_of_the_plain_sum(of, monkeypatch):
    monkeypatch.setattr(mixture, "BLOCK", 7)  # the last block is smaller than the others
    shape = (5, 11) if of.site.kind == "activation" else (4, 6)
    generator = torch.Generator().manual_seed(5)
    tensor = torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
    outer, inner = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    found = []
    for quantizer in of_both(of):
        learned = [tensor, *quantizer.parameters()]
        value = quantizer(tensor)
        first = torch.autograd.grad((value * outer).sum(), learned, retain_graph=True)
        # A gradient that is learned from itself, as an attribution is.
        (made,) = torch.autograd.grad((value.square() * outer).sum(), tensor, create_graph=True)
        second = torch.autograd.grad((made.square() * inner).sum(), learned)
        found.append([value, *first, made, *second])
    for mine, plain in zip(*found, strict=True):
        assert float(plain.detach().abs().max()) > 0
        torch.testing.assert_close(mine, plain, rtol=1e-11, atol=1e-11)


def test_nothing_is_kept_for_the_single_widths():
    tensor = torch.randn(4000, requires_grad=True)
    kept = []
    for quantizer in of_both(activation()):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: (s.append(t.nbytes), t)[1], lambda t: t):
            quantizer(tensor)
        kept.append(sum(sizes))
    assert kept[0] < tensor.nbytes + 200
    assert kept[1] > 3 * tensor.nbytes


def test_one_share_alone_is_that_width():
    for of in (activation(), weight()):
        quantizer = Mixture(of, WIDTHS)
        quantizer.bits = 8
        tensor = torch.randn(4, 6) if of.site.kind == "activation" else of.weight
        for i, width in enumerate(WIDTHS):
            with torch.no_grad():
                quantizer.alpha.fill_(-200.0)[i] = 0
                torch.testing.assert_close(quantizer(tensor), of.rounded(width, tensor))
                assert float(quantizer.expected_bits) == width


@pytest.mark.parametrize("widths", [(4,), (4, 4), (8, 4)])
def test_widths_are_at_least_two_in_order(widths):
    with pytest.raises(InvalidInput, match=r"widths must be at least two, ascending, got .* for site 'relu'"):
        Mixture(activation(), widths)


def test_grids_of_single_tensors_are_not_mixed():
    with pytest.raises(InvalidInput, match="makes a grid for each tensor"):
        Mixture(DynamicQuantizer(Site("relu", "activation", (1, 4), Scheme(dynamic=True))), WIDTHS)


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
        graph.put(name, Mixture(graph.quantizers[name], WIDTHS))
    return graph


def expected_bits(graph):
    return sum(site.numel * graph.quantizers[site.name].expected_bits for site in graph.sites.weights)


def chosen(quantizer):
    return WIDTHS[int(quantizer.alpha.argmax())]


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
    assert [chosen(quantizer) for quantizer in supernet.quantizers.values()].count(8) >= 3


def test_shares_are_learned_from_what_the_widths_cost(supernet, images):
    (_, bits), *_, (_, fewer) = search(supernet, images, 1.0)
    assert fewer < 0.6 * bits
    assert chosen(supernet.quantizers["0.weight"]) == 2


def test_a_mixture_is_not_exported_and_a_chosen_width_is(supernet, images, tmp_path):
    pytest.importorskip("onnxruntime")
    search(supernet, images, 0.01)
    with pytest.raises(ExportError, match=r"site '0.weight' mixes several widths, .* bits on average; .*choose one"):
        bw.export(supernet, tmp_path / "model.onnx")
    policy = bw.Policy({name: chosen(quantizer) for name, quantizer in supernet.quantizers.items()})
    for name in supernet.sites.names:
        supernet.put(name, supernet.quantizers[name].of)
    bw.export(supernet.apply(policy), tmp_path / "model.onnx")
    parity = bw.parity(supernet, tmp_path / "model.onnx", [(images, None)], task="classification")
    assert parity.exact_agreement == 1.0
    assert parity.exact_difference == 0
