"""What Bitwright knows about each ATen operation: one table, read by placement, costs and sensitivity.

An operation that is in no table stays in float and ends no chain; that is always safe.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass

import torch
from torch.fx import Node

aten = torch.ops.aten


@dataclass(frozen=True)
class WeightedOperation:
    """An operation with a weight.

    Attributes:
        kind: name for people and cost models.
        weight: argument position of the weight.
        bias: argument position of the bias, or None.
        channel_axis: the weight's axis of output channels.
    """

    kind: str
    weight: int
    bias: int | None
    channel_axis: int


WEIGHTED: dict[object, WeightedOperation] = {
    aten.conv1d.default: WeightedOperation("conv1d", 1, 2, 0),
    aten.conv1d.padding: WeightedOperation("conv1d", 1, 2, 0),
    aten.conv2d.default: WeightedOperation("conv2d", 1, 2, 0),
    aten.conv2d.padding: WeightedOperation("conv2d", 1, 2, 0),
    aten.conv_transpose1d.default: WeightedOperation("conv_transpose1d", 1, 2, 1),
    aten.conv_transpose2d.input: WeightedOperation("conv_transpose2d", 1, 2, 1),
    aten.linear.default: WeightedOperation("linear", 1, 2, 0),
}

EMBEDDING = aten.embedding.default

# Two tensor operands; both are quantized where they come from the network.
BINARY: dict[object, str] = {
    aten.add.Tensor: "add",
    aten.add_.Tensor: "add",
    aten.mul.Tensor: "mul",
    aten.mul_.Tensor: "mul",
    aten.matmul.default: "matmul",
    aten.bmm.default: "matmul",
}
MATMUL = {aten.matmul.default, aten.bmm.default}

CONCATENATION = {aten.cat.default, aten.concat.default}

# One tensor operand; integer runtimes compute them on integers, so both sides are quantized.
UNARY: dict[object, str] = {
    aten.avg_pool1d.default: "avg_pool",
    aten.avg_pool2d.default: "avg_pool",
    aten.adaptive_avg_pool1d.default: "avg_pool",
    aten.adaptive_avg_pool2d.default: "avg_pool",
    aten.mean.dim: "mean",
    aten.softmax.int: "softmax",
    aten.layer_norm.default: "layer_norm",
    aten.leaky_relu.default: "leaky_relu",
    aten.leaky_relu_.default: "leaky_relu",
    aten.prelu.default: "prelu",
    aten.sigmoid.default: "sigmoid",
    aten.tanh.default: "tanh",
    aten.gelu.default: "gelu",
    aten.silu.default: "silu",
    aten.silu_.default: "silu",
    aten.hardswish.default: "hardswish",
    aten.hardswish_.default: "hardswish",
    aten.hardsigmoid.default: "hardsigmoid",
    aten.elu.default: "elu",
    aten.upsample_bilinear2d.vec: "upsample",
}

# Clamps that integer runtimes fold into the operation in front: only the clamped value gets a site.
CLAMPS: dict[object, str] = {
    aten.relu.default: "relu",
    aten.relu_.default: "relu",
    aten.relu6.default: "relu6",
    aten.hardtanh.default: "relu6",
    aten.hardtanh_.default: "relu6",
    aten.clamp.default: "clamp",
    aten.clamp_min.default: "clamp",
}

# Operations that only move or pick values: what is on a grid stays on the same grid.
MOVES: set[object] = {
    aten.slice.Tensor,
    aten.select.int,
    aten.pad.default,
    aten.constant_pad_nd.default,
    aten.max_pool1d.default,
    aten.max_pool2d.default,
    aten.adaptive_max_pool2d.default,
    aten.view.default,
    aten._unsafe_view.default,
    aten.reshape.default,
    aten.flatten.using_ints,
    aten.unflatten.int,
    aten.permute.default,
    aten.transpose.int,
    aten.t.default,
    aten.squeeze.dim,
    aten.squeeze.default,
    aten.unsqueeze.default,
    aten.expand.default,
    aten.expand_as.default,
    aten.contiguous.default,
    aten.clone.default,
    aten.dropout.default,
    aten.feature_dropout.default,
    aten.alias.default,
    aten.detach.default,
    aten.detach_.default,
    aten.channel_shuffle.default,
    aten.pixel_shuffle.default,
    aten.pixel_unshuffle.default,
    aten.upsample_nearest2d.vec,
    aten.index_select.default,
    aten.flip.default,
    aten.roll.default,
    aten.repeat.default,
    aten.split.Tensor,
    aten.split_with_sizes.default,
    aten.chunk.default,
    aten.unbind.int,
    aten.to.dtype,
    aten._assert_tensor_metadata.default,
}
# They give several tensors; each is picked with an index.
SPLITS = {aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default, aten.unbind.int}
# Pads move values only when they pad with a value that every grid has: zero.
PADS = {aten.pad.default, aten.constant_pad_nd.default}


def kind_of(node: Node) -> str:
    """The field's word for an operation, e.g. ``conv2d``; the ATen name where the tables have none."""
    target = node.target
    if target in WEIGHTED:
        return WEIGHTED[target].kind
    for table in (BINARY, UNARY, CLAMPS):
        if target in table:
            return table[target]
    if target in CONCATENATION:
        return "cat"
    if target == EMBEDDING:
        return "embedding"
    return str(getattr(target, "__name__", target)).split(".")[0]


def moves_only(node: Node) -> bool:
    """Whether the node's output holds only values of its input (and zeros)."""
    if node.op != "call_function":
        return False
    if node.target is operator.getitem:
        return isinstance(node.args[0], Node) and node.args[0].target in SPLITS
    if node.target not in MOVES:
        return False
    if node.target in PADS:
        mode = node.args[2] if node.target == aten.pad.default and len(node.args) > 2 else "constant"
        value = node.args[-1] if len(node.args) > (3 if node.target == aten.pad.default else 2) else None
        return mode != "constant" or value in (None, 0, 0.0)
    return True


def source_of(node: Node) -> Node:
    """Follow a value back through operations that only move it."""
    while moves_only(node) and isinstance(node.args[0], Node):
        node = node.args[0]
    return node


def bias_of(node: Node) -> Node | None:
    """The bias argument of an operation with a weight, if it has one."""
    position = WEIGHTED[node.target].bias
    bias = node.args[position] if position is not None and len(node.args) > position else node.kwargs.get("bias")
    return bias if isinstance(bias, Node) else None
