from __future__ import annotations

import gc

import pytest
import torch

from bitwright.errors import InvalidInput
from bitwright.numerics.affine import Affine, fake_quantize
from bitwright.quantizers import uniform
from bitwright.quantizers.uniform import ActivationQuantizer
from bitwright.values import Scheme, Site


@pytest.fixture
def rounded(monkeypatch):
    """Shapes of the tensors that were rounded."""
    calls = []
    original = uniform.fake_quantize
    monkeypatch.setattr(uniform, "fake_quantize", lambda t, a: calls.append(tuple(t.shape)) or original(t, a))
    return calls


@pytest.fixture
def ranged(monkeypatch):
    """Ranges of weights that were set."""
    calls = []
    original = uniform.weight_affine
    monkeypatch.setattr(uniform, "weight_affine", lambda w, *a: calls.append(a) or original(w, *a))
    return calls


class TestWeights:
    def test_float_is_the_same_tensor(self, make_weight):
        quantizer = make_weight()
        assert quantizer(quantizer.weight) is quantizer.weight

    def test_it_rounds_to_the_grid_of_its_width(self, make_weight):
        quantizer = make_weight()
        for bits in (2, 4, 8, 16):
            quantizer.bits = bits
            found = quantizer(quantizer.weight)
            torch.testing.assert_close(found, fake_quantize(quantizer.weight, quantizer.grid(bits)), rtol=0, atol=0)
            assert all(len(row.unique()) <= 1 << bits for row in found)

    def test_a_weight_is_rounded_once_for_each_width_and_range(self, make_weight, rounded, ranged):
        quantizer = make_weight()
        for _ in range(5):
            quantizer.bits = 4
            quantizer(quantizer.weight)
        assert (len(rounded), len(ranged)) == (1, 1)
        quantizer.bits = 3
        quantizer(quantizer.weight)
        quantizer(quantizer.weight)
        assert (len(rounded), len(ranged)) == (2, 2)
        quantizer.bits = 4  # its grid is still known
        quantizer(quantizer.weight)
        assert (len(rounded), len(ranged)) == (3, 2)
        quantizer.set_ranges("minmax")
        quantizer(quantizer.weight)
        quantizer(quantizer.weight)
        assert (len(rounded), len(ranged)) == (4, 3)

    def test_a_weight_that_was_changed_in_place_is_rounded_anew(self, make_weight, rounded):
        quantizer = make_weight()
        quantizer.bits = 4
        before = quantizer(quantizer.weight).clone()
        with torch.no_grad():
            quantizer.weight.mul_(3)
        after = quantizer(quantizer.weight)
        assert len(rounded) == 2
        assert float(after.abs().max()) > 2 * float(before.abs().max())
        torch.testing.assert_close(
            after, fake_quantize(quantizer.weight, uniform.weight_affine(quantizer.weight, -8, 7, 0, None, "mse"))
        )

    def test_one_rounded_copy_is_held_and_none_in_float(self, make_weight):
        quantizer = make_weight((64, 129))
        for bits in (2, 3, 4, 8):
            quantizer.bits = bits
            quantizer(quantizer.weight)

        def held():
            gc.collect()
            return sum(issubclass(type(o), torch.Tensor) and o.shape == (64, 129) for o in gc.get_objects())

        assert held() == 2
        quantizer.bits = None
        quantizer(quantizer.weight)
        assert held() == 1

    def test_gradients_reach_a_weight_that_wants_them(self, make_weight):
        quantizer = make_weight()
        quantizer.bits = 4
        weight = quantizer.weight.clone().requires_grad_()
        found = quantizer(weight)
        found.sum().backward()
        torch.testing.assert_close(found.detach(), quantizer(quantizer.weight), rtol=0, atol=0)
        affine = quantizer.grid(4)
        steps = (quantizer.weight / affine.scale).round()
        assert weight.grad.tolist() == ((steps >= -8) & (steps <= 7)).float().tolist()

    @pytest.mark.parametrize(
        ("scheme", "shape"),
        [
            (Scheme(True, True, "tensor"), (1, 1)),
            (Scheme(True, True, "channel", 1), (1, 6)),
            (Scheme(True, True, "group", 0, 4), (4, 2, 1)),
        ],
    )
    def test_the_scheme_says_how_many_steps_there_are(self, make_weight, scheme, shape):
        quantizer = make_weight(scheme=scheme)
        assert tuple(quantizer.grid(4).scale.shape) == shape
        assert quantizer.grid(4).scale.numel() == quantizer.site.scales
        quantizer.bits = 4
        assert quantizer(quantizer.weight).shape == (4, 6)

    def test_a_narrow_scheme_leaves_out_the_lowest_integer(self, make_weight):
        quantizer = make_weight(scheme=Scheme(True, True, "channel", 0, narrow=True))
        assert (quantizer.grid(4).low, quantizer.grid(4).high) == (-7, 7)
        assert float(quantizer.integers(2).abs().max()) == 1

    def test_integers_times_steps_are_the_rounded_weight(self, make_weight):
        quantizer = make_weight()
        quantizer.bits = 5
        found = quantizer.integers(5) * quantizer.grid(5).scale
        torch.testing.assert_close(found, quantizer(quantizer.weight), rtol=0, atol=0)

    def test_learned_roundings_are_used_until_the_weight_changes(self, make_weight):
        quantizer = make_weight()
        affine = quantizer.grid(4)
        wanted = (quantizer.weight / affine.scale).floor().clamp(-8, 7)
        quantizer.fix(4, affine, wanted)
        quantizer.bits = 4
        torch.testing.assert_close(quantizer(quantizer.weight), wanted * affine.scale, rtol=0, atol=0)
        torch.testing.assert_close(quantizer.integers(4), wanted, rtol=0, atol=0)
        assert quantizer.learned(4)
        assert not quantizer.learned(3)
        with torch.no_grad():
            quantizer.weight.add_(0.0)
        assert not quantizer.learned(4)
        torch.testing.assert_close(
            quantizer(quantizer.weight), fake_quantize(quantizer.weight, quantizer.grid(4)), rtol=0, atol=0
        )

    def test_learned_roundings_must_fit(self, make_weight):
        quantizer = make_weight()
        with pytest.raises(InvalidInput, match=r"shape \(4, 6\) at site 'conv.weight', got \(3, 3\)"):
            quantizer.fix(4, quantizer.grid(4), torch.zeros(3, 3))
        with pytest.raises(InvalidInput, match="between -8 and 7 at 4 bits for site 'conv.weight', got 0 to 9"):
            quantizer.fix(4, quantizer.grid(4), torch.eye(6)[:4] * 9)

    def test_a_weight_is_always_calibrated(self, make_weight):
        assert make_weight().calibrated


class TestActivations:
    def test_float_is_the_same_tensor(self, make_activation):
        tensor = torch.randn(3, 4)
        assert make_activation()(tensor) is tensor

    def test_it_rounds_to_the_grid_of_its_width_and_saturates(self, make_activation):
        quantizer = make_activation()
        quantizer.bits = 3
        found = quantizer(torch.tensor([-100.0, -1.0, 0.0, 3.0, 100.0]))
        affine = quantizer.grid(3)
        assert found[2] == 0
        assert found[0] == found[1] == (0 - affine.zero_point) * affine.scale
        assert found[4] == found[3] == (7 - affine.zero_point) * affine.scale

    def test_a_grid_is_chosen_once_for_each_width(self, make_activation, monkeypatch):
        calls = []
        original = uniform.activation_affine
        monkeypatch.setattr(uniform, "activation_affine", lambda *a: calls.append(a) or original(*a))
        quantizer = make_activation()
        for bits in (4, 4, 8, 4):
            quantizer.bits = bits
            quantizer(torch.zeros(2))
        assert len(calls) == 2
        quantizer.set_ranges("percentile", 99.0)
        quantizer(torch.zeros(2))
        assert calls[-1][4:] == ("percentile", 99.0)

    def test_without_calibration_it_says_how_to(self):
        quantizer = ActivationQuantizer(Site("block.relu", "activation", (1, 2)))
        assert not quantizer.calibrated
        quantizer.bits = 8
        with pytest.raises(InvalidInput, match=r"site 'block.relu' has no range yet; call bw.calibrate"):
            quantizer(torch.zeros(2))

    def test_a_grid_fixed_by_hand_holds_until_ranges_are_set_again(self, make_activation):
        quantizer = make_activation()
        quantizer.fix(4, Affine(torch.tensor(0.5), torch.tensor(0.0), 0, 15))
        quantizer.bits = 4
        assert quantizer(torch.tensor([0.6])).item() == 0.5
        assert float(quantizer.grid(8).scale) != 0.5
        quantizer.set_ranges("minmax")
        assert float(quantizer.grid(4).scale) == pytest.approx(4 / 15, rel=1 / 64)

    def test_a_fixed_grid_is_enough_to_round(self):
        quantizer = ActivationQuantizer(Site("relu", "activation", (1, 2)))
        quantizer.fix(8, Affine(torch.tensor(0.5), torch.tensor(0.0), 0, 255))
        quantizer.bits = 8
        assert quantizer(torch.tensor([0.6])).item() == 0.5

    def test_gradients_pass_straight_through(self, make_activation):
        quantizer = make_activation()
        quantizer.bits = 4
        tensor = torch.tensor([-100.0, 0.1, 100.0], requires_grad=True)
        quantizer(tensor).sum().backward()
        assert tensor.grad.tolist() == [0, 1, 0]

    def test_an_unknown_range_method_is_refused(self, make_activation):
        with pytest.raises(InvalidInput, match="got 'max'"):
            make_activation().set_ranges("max")

    def test_it_shows_its_site_and_width(self, make_activation):
        quantizer = make_activation()
        assert "relu, bits=float" in repr(quantizer)
        quantizer.bits = 4
        assert "relu, bits=4" in repr(quantizer)
