"""What the table says of an operation is what the operation does."""

from __future__ import annotations

import math

import pytest
import torch
from torch.fx import Graph
from torch.utils.flop_counter import FlopCounterMode

from bitwright.graph.operations import OPERATIONS, aten, bitwright, entry_of, moves_only

IMAGE, ROW, VIDEO = (2, 4, 6, 6), (2, 4, 6), (2, 4, 4, 4, 4)
# Shapes (tuples) become random tensors; everything else is passed as it is.
CALLS = {
    aten.conv1d.default: [(ROW, (6, 2, 3), (6,), [1], [1], [1], 2)],
    aten.conv1d.padding: [(ROW, (6, 4, 3), (6,), [1], "same")],
    aten.conv2d.default: [
        (IMAGE, (8, 2, 3, 3), (8,), [2, 2], [1, 1], [1, 1], 2),
        (IMAGE, (4, 1, 3, 3), None, [1, 1], [0, 0], [2, 2], 4),
    ],
    aten.conv2d.padding: [(IMAGE, (6, 4, 3, 3), (6,), [1, 1], "same")],
    aten.conv3d.default: [(VIDEO, (6, 2, 3, 3, 3), None, [1, 1, 1], [1, 1, 1], [1, 1, 1], 2)],
    aten.conv3d.padding: [(VIDEO, (6, 4, 2, 2, 2), None, [1, 1, 1], "same")],
    aten.conv_transpose1d.default: [(ROW, (4, 3, 3), None, [2], [0], [1], 2)],
    aten.conv_transpose2d.input: [(IMAGE, (4, 3, 3, 3), (6,), [2, 2], [1, 1], [0, 0], 2)],
    aten.conv_transpose3d.input: [(VIDEO, (4, 3, 2, 2, 2), (6,), [2, 2, 2], [0, 0, 0], [0, 0, 0], 2)],
    aten.linear.default: [(ROW, (5, 6), (5,))],
    bitwright.lstm.default: [((3, 7, 20), (20, 5), (20,), None, False, None)],
    bitwright.gru.default: [((3, 7, 15), (15, 5), (15,), (3, 5), True)],
    bitwright.rnn_tanh.default: [((3, 7, 5), (5, 5), None, (3, 5), False)],
    bitwright.rnn_relu.default: [((3, 1, 5), (5, 5), (5,), None, True)],
    aten.matmul.default: [((2, 3, 4, 5), (2, 3, 5, 6))],
    aten.bmm.default: [((3, 4, 5), (3, 5, 6))],
    aten.mm.default: [((4, 5), (5, 6))],
    aten.avg_pool1d.default: [(ROW, [2])],
    aten.avg_pool2d.default: [(IMAGE, [2, 2])],
    aten.avg_pool3d.default: [(VIDEO, [2, 2, 2])],
    aten.adaptive_avg_pool3d.default: [(VIDEO, [2, 2, 2])],
    aten.adaptive_avg_pool1d.default: [(ROW, [2])],
    aten.adaptive_avg_pool2d.default: [(IMAGE, [2, 2])],
    aten.mean.dim: [(IMAGE, [2, 3])],
    aten.upsample_bilinear2d.vec: [(IMAGE, [9, 9], False, None)],
    aten.leaky_relu.default: [(IMAGE, 0.2)],
    aten.prelu.default: [(IMAGE, (4,))],
    aten.relu.default: [(IMAGE,)],
    aten.relu6.default: [(IMAGE,)],
    aten.hardtanh.default: [(IMAGE,), (IMAGE, -0.5, 0.25), (IMAGE, 0.0, 0.5)],
    aten.clamp.default: [(IMAGE, -0.5, 0.25), (IMAGE, None, 0.5), (IMAGE, 0.1)],
    aten.clamp_min.default: [(IMAGE, -0.25)],
    aten.slice.Tensor: [(IMAGE, 2, 1, 5, 2)],
    aten.select.int: [(IMAGE, 1, 2)],
    aten.pad.default: [(IMAGE, [1, 1]), (IMAGE, [1, 1, 2, 2], "reflect"), (IMAGE, [1, 1], "constant", 0.0)],
    aten.constant_pad_nd.default: [(IMAGE, [1, 1]), (IMAGE, [1, 1], 0)],
    aten.max_pool1d.default: [(ROW, [2])],
    aten.max_pool2d.default: [(IMAGE, [2, 2])],
    aten.max_pool3d.default: [(VIDEO, [2, 2, 2])],
    aten.upsample_nearest1d.vec: [(ROW, [12], None)],
    aten.upsample_nearest3d.vec: [(VIDEO, [8, 8, 8], None)],
    aten.adaptive_max_pool2d.default: [(IMAGE, [2, 2])],
    aten.upsample_nearest2d.vec: [(IMAGE, [12, 12], None)],
    aten.view.default: [(IMAGE, [2, -1])],
    aten.reshape.default: [(IMAGE, [2, -1])],
    aten.flatten.using_ints: [(IMAGE, 1)],
    aten.squeeze.dim: [((2, 4, 1, 1), 2)],
    aten.squeeze.dims: [((2, 4, 1, 1), [2, 3])],
    aten.squeeze.default: [((2, 4, 1, 1),)],
    aten.unsqueeze.default: [(ROW, 1)],
    aten._unsafe_view.default: [(IMAGE, [2, -1])],
    aten.unflatten.int: [(IMAGE, 1, [2, 2])],
    aten.permute.default: [(ROW, [0, 2, 1])],
    aten.transpose.int: [(ROW, 1, 2)],
    aten.t.default: [((3, 4),)],
    aten.expand.default: [((2, 1, 3), [2, 5, 3])],
    aten.expand_as.default: [((2, 1, 3), (2, 5, 3))],
    aten.channel_shuffle.default: [(IMAGE, 2)],
    aten.pixel_shuffle.default: [(IMAGE, 2)],
    aten.pixel_unshuffle.default: [(IMAGE, 2)],
    aten.index_select.default: [(ROW, 1, torch.tensor([2, 0]))],
    aten.flip.default: [(ROW, [1])],
    aten.roll.default: [(ROW, [1], [1])],
    aten.repeat.default: [(ROW, [1, 2, 1])],
    aten.to.dtype: [(ROW, torch.float64)],
    aten._assert_tensor_metadata.default: [],
    aten.contiguous.default: [(ROW,)],
    aten.clone.default: [(ROW,)],
    aten.dropout.default: [(ROW, 0.5, False)],
    aten.feature_dropout.default: [(ROW, 0.5, False)],
    aten.alias.default: [(ROW,)],
    aten.detach.default: [(ROW,)],
    aten.split.Tensor: [(ROW, 2, 1)],
    aten.unsafe_split.Tensor: [(ROW, 2, 1)],
    aten.split_with_sizes.default: [(ROW, [1, 3], 1)],
    aten.chunk.default: [(ROW, 2, 1)],
    aten.unbind.int: [(ROW, 1)],
}


def having(role):
    """Every operation whose entry has a role, with each of its calls."""
    wanted = [target for target, entry in OPERATIONS.items() if role(entry)]
    return [pytest.param(target, call, id=str(target)) for target in wanted for call in CALLS[target]]


def arguments(call):
    """A node's arguments, and the same with random tensors for shapes."""
    torch.manual_seed(0)
    return [torch.randn(value, dtype=torch.float64) if isinstance(value, tuple) else value for value in call]


def node(target, call):
    graph = Graph()
    return graph.call_function(
        target, tuple(graph.placeholder(f"x{i}") if isinstance(v, tuple) else v for i, v in enumerate(call))
    )


def parts(result):
    """The values of a result, without the indices that pooling can give besides."""
    found = result if isinstance(result, (tuple, list)) else [result]
    return [part for part in found if part.is_floating_point()]


@pytest.mark.parametrize(("target", "call"), having(lambda entry: entry.macs is not None))
def test_macs_are_half_of_the_operations_that_torch_counts(target, call):
    entry, given = OPERATIONS[target], arguments(call)
    with FlopCounterMode(display=False) as counter:
        result = target(*given)
    first, second = (given[position] for position in entry.factors)
    assert entry.macs(result.shape, first.shape, second.shape) * 2 == counter.get_total_flops() > 0


@pytest.mark.parametrize(("target", "call"), having(lambda entry: entry.moves))
def test_moves_put_out_nothing_but_values_of_the_input_and_zeros(target, call):
    given = arguments(call)
    known = {*given[0].flatten().tolist(), 0.0}
    for part in parts(target(*given)):
        assert set(part.flatten().tolist()) <= known
    assert moves_only(node(target, call))


@pytest.mark.parametrize("call", [(IMAGE, [1, 1], "constant", 0.5), (IMAGE, [1, 1], "constant", -1)])
def test_padding_with_other_values_moves_nothing(call):
    assert not moves_only(node(aten.pad.default, call))
    assert not moves_only(node(aten.constant_pad_nd.default, (*call[:2], call[3])))


@pytest.mark.parametrize(("target", "call"), having(lambda entry: entry.several))
def test_several_tensors_are_lists(target, call):
    assert len(target(*arguments(call))) > 1


@pytest.mark.parametrize(("target", "call"), having(lambda entry: entry.scales is not None))
def test_what_scales_along_scales_each_channel_on_its_own(target, call):
    given = arguments(call)
    scales = torch.tensor([0.5, 4.0, 1.0, 2.0], dtype=torch.float64)  # powers of two: nothing is rounded
    scaled = parts(target(given[0] * scales.reshape(1, 4, *[1] * (given[0].dim() - 2)), *given[1:]))[0]
    expected = parts(target(*given))[0]
    assert torch.equal(scaled.reshape(2, 4, -1), expected.reshape(2, 4, -1) * scales.reshape(1, 4, 1))


@pytest.mark.parametrize(("target", "call"), having(lambda entry: entry.limits is not None))
def test_clamps_clamp_between_their_limits(target, call):
    low, high = entry_of(node(target, call)).limits(node(target, call))
    values = torch.cat([torch.linspace(-9, 9, 97, dtype=torch.float64), torch.tensor([low, high])])
    values = values[torch.isfinite(values)]
    assert torch.equal(target(values, *call[1:]), values.clamp(low, high))
    assert low < high <= math.inf


def test_every_operation_is_called_somewhere():
    told = {t for t, e in OPERATIONS.items() if e.macs or e.moves or e.several or e.scales or e.limits}
    assert told == set(CALLS)
