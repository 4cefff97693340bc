"""The quantizer whose grid is made from each tensor."""

from __future__ import annotations

import pytest
import torch

from bitwright.errors import InvalidInput
from bitwright.numerics.ranges import Observed
from bitwright.quantizers.dynamic import DynamicQuantizer
from bitwright.testing import QuantizerContract
from bitwright.values import Scheme, Site

SITE = Site("up.input", "activation", (1, 4), Scheme(dynamic=True))


class TestContract(QuantizerContract):
    def make(self):
        quantizer = DynamicQuantizer(SITE)
        values = torch.randn(999, generator=torch.Generator().manual_seed(0)) + 0.5
        quantizer.observe(Observed(float(values.min()), float(values.max()), values, values.numel()))
        return quantizer


@pytest.mark.parametrize("bits", [2, 4, 8, 12])
@pytest.mark.parametrize("shift", [-3.0, 0.0, 0.7, 3.0])
def test_it_rounds_as_the_standard_prescribes(bits, shift):
    """Against the formula of DynamicQuantizeLinear in float64; 0.0 is always on the grid."""
    values = torch.randn(500, generator=torch.Generator().manual_seed(1)) + shift
    found = DynamicQuantizer(SITE).quantize(values, bits)
    x, levels = values.double(), 2**bits - 1
    step = (x.max().clamp_min(0) - x.min().clamp_max(0)) / levels
    zero = (-x.min().clamp_max(0) / step).clamp(0, levels).round()
    wanted = (((x / step).round() + zero).clamp(0, levels) - zero) * step
    near_a_tie = ((x / step) % 1 - 0.5).abs() < 1e-3
    torch.testing.assert_close(found.double()[~near_a_tie], wanted[~near_a_tie], rtol=1e-6, atol=1e-6)
    assert float(DynamicQuantizer(SITE).quantize(torch.cat((values, torch.zeros(1))), bits)[-1]) == 0.0


def test_it_equals_the_runtimes_own_operator():
    onnxruntime = pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None]) for name in ("x", "y")]
    model = helper.make_model(
        helper.make_graph(nodes, "g", ends[:1], ends[1:]), opset_imports=[helper.make_opsetid("", 21)], ir_version=10
    )
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    for size in (1, 7, 1000):
        for shift in (-5.0, 0.0, 0.3, 5.0):
            values = torch.randn(size, generator=generator) * 3 + shift
            (wanted,) = session.run(None, {"x": values.numpy()})
            assert torch.equal(DynamicQuantizer(SITE).quantize(values, 8), torch.from_numpy(wanted))


def test_gradients_pass_unchanged():
    values = torch.randn(50, generator=torch.Generator().manual_seed(1)).requires_grad_()
    (DynamicQuantizer(SITE).quantize(values, 4) * torch.arange(50)).sum().backward()
    inside = values.detach() > values.min()  # an end can lie outside by half a step
    assert torch.equal(values.grad[inside], torch.arange(50.0)[inside])


def test_a_tensor_of_zeros_and_an_empty_one():
    quantizer = DynamicQuantizer(SITE)
    assert torch.equal(quantizer.quantize(torch.zeros(3), 8), torch.zeros(3))
    assert quantizer.quantize(torch.zeros(0), 8).shape == (0,)


def test_it_needs_calibration_for_steps_alone():
    quantizer = DynamicQuantizer(SITE)
    quantizer.check_range(8)
    with pytest.raises(InvalidInput, match="site 'up.input' has no range yet"):
        quantizer.grid(8)
