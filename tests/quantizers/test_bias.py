from __future__ import annotations

import torch

from bitwright.quantizers.bias import LARGEST, BiasQuantizer
from bitwright.values import Scheme


def pair(make_weight, make_activation, **weight):
    inputs, weight = make_activation(), make_weight(**weight)
    return BiasQuantizer("conv.bias", {"x": inputs, "conv.weight": weight}, "x", "conv.weight"), inputs, weight


def test_a_bias_is_rounded_to_input_step_times_weight_step(make_weight, make_activation):
    quantizer, inputs, weight = pair(make_weight, make_activation)
    bias = torch.tensor([0.3, -0.7, 0.011, 5.0])
    inputs.bits, weight.bits = 4, 3
    step = inputs.grid(4).scale * weight.grid(3).scale.flatten()
    expected = torch.tensor([round(float(b) / float(s)) * float(s) for b, s in zip(bias, step, strict=True)])
    torch.testing.assert_close(quantizer(bias), expected, rtol=1e-7, atol=0)
    assert not torch.equal(quantizer(bias), bias)
    torch.testing.assert_close(quantizer.integers(bias) * step.double(), quantizer(bias).double(), rtol=1e-7, atol=0)


def test_it_stays_in_float_unless_both_are_quantized(make_weight, make_activation):
    quantizer, inputs, weight = pair(make_weight, make_activation)
    bias = torch.randn(4)
    for bits in ((None, None), (4, None), (None, 4)):
        inputs.bits, weight.bits = bits
        assert quantizer(bias) is bias
        assert quantizer.scale() is None
        assert not quantizer.saturated(bias)


def test_a_bias_of_grouped_weights_stays_in_float(make_weight, make_activation):
    quantizer, inputs, weight = pair(make_weight, make_activation, scheme=Scheme(True, True, "group", 0, 3))
    inputs.bits = weight.bits = 4
    bias = torch.randn(4)
    assert quantizer(bias) is bias


def test_one_step_for_a_whole_tensor(make_weight, make_activation):
    quantizer, inputs, weight = pair(make_weight, make_activation, scheme=Scheme(True, True, "tensor"))
    inputs.bits = weight.bits = 4
    assert quantizer(torch.randn(4)).shape == (4,)
    assert quantizer.scale().numel() == 1


def test_it_follows_widths_ranges_and_values(make_weight, make_activation):
    quantizer, inputs, weight = pair(make_weight, make_activation)
    bias = torch.tensor([0.31, -0.72, 0.011, 5.0])

    def expected():
        step = inputs.grid(inputs.bits).scale * weight.grid(weight.bits).scale.flatten()
        return (bias / step).round() * step

    for inputs.bits, weight.bits in ((4, 4), (4, 2), (8, 2), (4, 4)):
        torch.testing.assert_close(quantizer(bias), expected(), rtol=0, atol=0)
        assert quantizer(bias) is quantizer(bias)  # rounded once
    inputs.set_ranges("mse")
    torch.testing.assert_close(quantizer(bias), expected(), rtol=0, atol=0)
    weight.set_ranges("minmax")
    torch.testing.assert_close(quantizer(bias), expected(), rtol=0, atol=0)
    with torch.no_grad():
        weight.weight.mul_(2.7)
    torch.testing.assert_close(quantizer(bias), expected(), rtol=0, atol=0)
    bias.add_(0.4)
    torch.testing.assert_close(quantizer(bias), expected(), rtol=0, atol=0)


def test_a_bias_that_does_not_fit_into_int32_gets_larger_steps_and_says_so(make_weight, make_activation):
    quantizer, inputs, weight = pair(make_weight, make_activation)
    inputs.bits = weight.bits = 16
    small, large = torch.full((4,), 1e-3), torch.tensor([1e-3, 1e6, -1e6, 0.0])
    assert not quantizer.saturated(small)
    torch.testing.assert_close(quantizer.scale(small), quantizer.scale(), rtol=0, atol=0)
    assert quantizer.saturated(large)
    factors = quantizer.scale(large) / quantizer.scale()
    assert factors.tolist()[::3] == [1.0, 1.0]
    assert torch.frexp(factors).mantissa.tolist() == [0.5] * 4  # powers of two
    whole = quantizer.integers(large)
    assert (whole.abs() <= LARGEST).all()
    assert (whole[1:3].abs() > LARGEST / 2.001).all()
    torch.testing.assert_close(quantizer(large), large, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(quantizer(large), (whole * quantizer.scale(large)).float(), rtol=1e-7, atol=0)
    assert LARGEST < 2**31


def test_a_whole_tensor_keeps_one_step_also_where_a_bias_is_large(make_weight, make_activation):
    quantizer, inputs, weight = pair(make_weight, make_activation, scheme=Scheme(True, True, "tensor"))
    inputs.bits = weight.bits = 16
    large = torch.tensor([1e-3, 1e6, -1e6, 0.0])
    assert quantizer.scale(large).numel() == 1
    torch.testing.assert_close(quantizer(large), large, rtol=1e-6, atol=float(quantizer.scale(large)))


def test_a_correction_replaces_the_bias_at_its_width_only(make_weight, make_activation):
    quantizer, inputs, weight = pair(make_weight, make_activation)
    bias, other = torch.zeros(4), torch.ones(4)
    quantizer.correct(4, other)
    inputs.bits, weight.bits = 8, 4
    torch.testing.assert_close(quantizer(bias), torch.ones(4), rtol=0.05, atol=0)
    weight.bits = 3
    assert not quantizer(bias).any()
    weight.bits = None
    assert quantizer(bias) is bias
    inputs.bits, weight.bits = None, 4
    torch.testing.assert_close(quantizer(bias), torch.ones(4), rtol=0, atol=0)
    quantizer.correct(4, None)
    assert quantizer(bias) is bias


def test_the_bias_itself_is_left_alone(make_weight, make_activation):
    quantizer, inputs, weight = pair(make_weight, make_activation)
    inputs.bits = weight.bits = 2
    bias = torch.randn(4)
    before = bias.clone()
    quantizer(bias)
    torch.testing.assert_close(bias, before, rtol=0, atol=0)


def test_a_channel_whose_bias_does_not_fit_gets_larger_weight_steps_while_both_are_narrow(make_weight, make_activation):
    quantizer, inputs, weight = pair(make_weight, make_activation)
    bias = torch.tensor([1e-3, 1e9, -1e15, 0.0])
    inputs.bits = weight.bits = 8
    own, before = weight.grid(8), weight(weight.weight)
    quantizer.settle(bias)
    factors = (weight.grid(8).scale / own.scale).flatten()
    assert factors[[0, 3]].tolist() == [1.0, 1.0]
    assert (factors[1:3] > 1).all()
    assert torch.frexp(factors).mantissa.tolist() == [0.5] * 4  # powers of two
    assert not quantizer.saturated(bias)
    assert (quantizer.integers(bias)[1:3].abs() > LARGEST / 2.001).all()  # no larger than needed
    torch.testing.assert_close(quantizer(bias), bias, rtol=1e-6, atol=1e-4)
    assert torch.equal(weight(weight.weight)[0], before[0])
    assert not weight(weight.weight)[2].any()
    kept = weight.grid(8)
    quantizer.settle(bias)
    assert weight.grid(8) is kept
    assert torch.equal(weight.state((8,))["scale/8"], own.scale)
    for inputs.bits, weight.bits in ((16, 8), (8, 16), (None, 8)):
        weight.settle(None)
        quantizer.settle(bias)
        assert weight.grid(weight.bits) is weight.own_grid(weight.bits)


def test_learned_integers_keep_their_grid(make_weight, make_activation):
    quantizer, inputs, weight = pair(make_weight, make_activation)
    inputs.bits = weight.bits = 8
    own = weight.grid(8)
    weight.fix(8, own, weight.integers(8))
    quantizer.settle(torch.full((4,), 1e12))
    assert weight.grid(8) is own


def test_the_sum_of_products_has_room_beside_the_largest_bias():
    products = 4096 * 127 * 255  # a wide layer's, all of them as large as they can be
    assert LARGEST + products < 2**31
