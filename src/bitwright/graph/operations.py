"""What Bitwright knows of each ATen operation: one table, with one entry an operation.

Placement, capture, layers, costs, scores, repairs and export read it; none of them keeps names of operations of its
own. An operation that is not in the table stays in float and ends every chain, which is always safe.

In-place operations have no entries: capture replaces them by their functional twins first.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor
from torch.fx import Node

from bitwright.numerics import recurrence

aten = torch.ops.aten
bitwright = torch.ops.bitwright

Macs = Callable[[torch.Size, torch.Size, torch.Size], int]
"""Multiply-accumulates, from the shapes of the output and of the two factors."""


@dataclass(frozen=True)
class WeightRole:
    """Where an operation with a weight has its operands, and how the weight is laid out.

    Attributes:
        input: argument position of what the weight is multiplied by, or of the row numbers of a lookup.
        weight: argument position of the weight.
        bias: argument position of the bias, or None.
        channel_axis: the weight's axis of output channels.
        dims: spatial dimensions of a convolution, 0 for others.
        transposed: whether it is a transposed convolution.
        lookup: whether it picks rows of the weight by their numbers instead of multiplying.
        states: for a recurrence: the states behind its steps, from its arguments and its result.
        arguments: name -> position of what else a convolution has.
    """

    input: int = 0
    weight: int = 1
    bias: int | None = 2
    channel_axis: int = 0
    dims: int = 0
    transposed: bool = False
    lookup: bool = False
    states: Callable[[Sequence[Any], Tensor], Tensor] | None = None
    arguments: MappingProxyType[str, int] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def recurrent(self) -> bool:
        """Whether the weight is multiplied by the state of the step before; ``input`` is then what is added."""
        return self.states is not None

    def entering(self, args: Sequence[Any], result: Tensor) -> Tensor:
        """What the weight is multiplied by in a call with these arguments; of a recurrence in all of its steps."""
        if self.states is None:
            return args[self.input]  # type: ignore[no-any-return]
        hidden, reverse = (args[self.arguments[name]] for name in ("hidden", "reverse"))
        return recurrence.states_before(self.states(args, result), hidden, reverse)


@dataclass(frozen=True)
class Entry:
    """What is known of one ATen operation.

    Attributes:
        kind: the field's word for it, for people and cost models, e.g. ``conv2d``; empty where its ATen name is used.
        operands: argument positions (of tensors, or of lists of tensors) that integer kernels read as integers; they
            write integers, too, so both sides get sites. Several operands all have to come from the network: a
            multiplication by a constant is no integer operation.
        weight: for operations with a weight.
        macs: for operations that multiply two tensors and add up.
        float_output: what it makes stays in float where it is a network output: logits are compared, not computed on.
        features_last: whether it works along the last axis, as transformers do.
        limits: for clamps, which integer kernels fold into the operation in front: between what a node clamps.
        moves: whether its output holds only values of its input: what is on a grid stays on the same grid.
        several: whether it gives several tensors, each picked with an index.
        fill: argument position of the value that it pads with; padding moves values only with zero, which every grid
            has.
        scales: where f(s x) = s f(x) for every s > 0: element by element, for each channel of an image, or for each
            channel of an image that it flattens (or averages) to one row a sample.
        activation: whether it is an activation function: element by element, a function of its first argument.
        opened: whether it hides matrix products and is opened up before sites are placed.
        recurrence: for a stack of recurrent layers: what each layer in each direction becomes, behind a linear layer.
        cell: for a recurrence that has a cell state: what gives the last one.
    """

    kind: str = ""
    operands: tuple[int, ...] = ()
    weight: WeightRole | None = None
    macs: Macs | None = None
    float_output: bool = False
    features_last: bool = False
    limits: Callable[[Node], tuple[float, float]] | None = None
    moves: bool = False
    several: bool = False
    fill: int | None = None
    scales: Literal["elementwise", "spatial", "flattening"] | None = None
    activation: bool = False
    opened: bool = False
    recurrence: Any = None
    cell: Any = None

    @property
    def layer(self) -> WeightRole | None:
        """The role of the weight that it multiplies by; None for lookups and for operations without a weight."""
        return self.weight if self.macs is not None else None

    @property
    def factors(self) -> tuple[int, ...]:
        """Argument positions of the two tensors that it multiplies; none for operations without products."""
        if self.macs is None:
            return ()
        return self.operands if self.weight is None else (self.weight.input, self.weight.weight)


def argument(node: Node, position: int | None, name: str, default: Any = None) -> Any:
    """An argument of a node, wherever it is given; the default where it is not given, or given as None."""
    given = node.args[position] if position is not None and len(node.args) > position else node.kwargs.get(name)
    return default if given is None else given


def _number(given: Any, default: float) -> float:
    return float(given) if isinstance(given, (int, float)) else default


def _hardtanh(node: Node) -> tuple[float, float]:
    return _number(argument(node, 1, "min_val"), -1.0), _number(argument(node, 2, "max_val"), 1.0)


def _clamp(node: Node) -> tuple[float, float]:
    return _number(argument(node, 1, "min"), -math.inf), _number(argument(node, 2, "max"), math.inf)


def _each_output(output: torch.Size, source: torch.Size, weight: torch.Size) -> int:
    """Every output value adds up one product for each weight of its channel."""
    return output.numel() * weight[1:].numel()


def _each_input(output: torch.Size, source: torch.Size, weight: torch.Size) -> int:
    """Every input value of a transposed convolution meets the kernel of each output channel of its group."""
    return source.numel() * weight[1:].numel()


def _each_gate(output: torch.Size, source: torch.Size, weight: torch.Size) -> int:
    """Every gate of every step, the first with its zero state among them, adds one product for each state."""
    return source.numel() * weight[1]


def _matrix_product(output: torch.Size, left: torch.Size, right: torch.Size) -> int:
    return output.numel() * left[-1]


_CONVOLUTION = MappingProxyType({"stride": 3, "padding": 4, "dilation": 5, "groups": 6})
_RECURRENCE = MappingProxyType({"hidden": 3, "reverse": 4, "cell": 5})
_TRANSPOSED = MappingProxyType({"stride": 3, "padding": 4, "output_padding": 5, "groups": 6, "dilation": 7})


def _convolution(dims: int) -> Entry:
    role = WeightRole(dims=dims, arguments=_CONVOLUTION)
    return Entry(f"conv{dims}d", (0,), weight=role, macs=_each_output)


def _transposed(dims: int) -> Entry:
    role = WeightRole(channel_axis=1, dims=dims, transposed=True, arguments=_TRANSPOSED)
    return Entry(f"conv_transpose{dims}d", (0,), weight=role, macs=_each_input)


def _recurrence(kind: str, cell: Any = None) -> Entry:
    role = WeightRole(states=lambda _, result: result, arguments=_RECURRENCE)
    return Entry(kind, weight=role, macs=_each_gate, features_last=True, cell=cell)


def _function(kind: str) -> Entry:
    return Entry(kind, (0,), activation=True)


# The states are made anew: those of the other operation pass a site, and the recurrence does not see what that rounds.
_CELL = WeightRole(states=lambda args, _: recurrence.lstm(*args[:6]), arguments=_RECURRENCE)
_LINEAR = Entry("linear", (0,), weight=WeightRole(), macs=_each_output, float_output=True, features_last=True)
_MATMUL = Entry("matmul", (0, 1), macs=_matrix_product, float_output=True, features_last=True)
_AVERAGE_POOL = Entry("avg_pool", (0,), scales="spatial")
_MOVE = Entry(moves=True)
_SAME = Entry(moves=True, scales="elementwise")
_WINDOW = Entry(moves=True, scales="spatial")
_RESHAPE = Entry(moves=True, scales="flattening")
_PARTS = Entry(moves=True, several=True)
_OPENED = Entry(opened=True)

OPERATIONS: MappingProxyType[object, Entry] = MappingProxyType(
    {
        # With a weight.
        aten.conv1d.default: _convolution(1),
        aten.conv1d.padding: _convolution(1),
        aten.conv2d.default: _convolution(2),
        aten.conv2d.padding: _convolution(2),
        aten.conv3d.default: _convolution(3),
        aten.conv3d.padding: _convolution(3),
        aten.conv_transpose1d.default: _transposed(1),
        aten.conv_transpose2d.input: _transposed(2),
        aten.conv_transpose3d.input: _transposed(3),
        aten.linear.default: _LINEAR,
        aten.embedding.default: Entry("embedding", weight=WeightRole(1, 0, None, lookup=True), features_last=True),
        bitwright.lstm.default: _recurrence("lstm", cell=bitwright.lstm_cell.default),
        bitwright.lstm_cell.default: Entry("lstm", weight=_CELL, features_last=True),
        bitwright.gru.default: _recurrence("gru"),
        bitwright.rnn_tanh.default: _recurrence("rnn"),
        bitwright.rnn_relu.default: _recurrence("rnn"),
        # Two operands from the network.
        aten.matmul.default: _MATMUL,
        aten.bmm.default: _MATMUL,
        aten.mm.default: _MATMUL,
        aten.add.Tensor: Entry("add", (0, 1)),
        aten.mul.Tensor: Entry("mul", (0, 1)),
        aten.cat.default: Entry("cat", (0,)),
        aten.concat.default: Entry("cat", (0,)),
        # One operand.
        aten.avg_pool1d.default: _AVERAGE_POOL,
        aten.avg_pool2d.default: _AVERAGE_POOL,
        aten.avg_pool3d.default: _AVERAGE_POOL,
        aten.adaptive_avg_pool1d.default: _AVERAGE_POOL,
        aten.adaptive_avg_pool2d.default: _AVERAGE_POOL,
        aten.adaptive_avg_pool3d.default: _AVERAGE_POOL,
        aten.mean.dim: Entry("mean", (0,), scales="flattening"),
        aten.softmax.int: Entry("softmax", (0,)),
        aten.layer_norm.default: Entry("layer_norm", (0,), features_last=True),
        aten.upsample_bilinear2d.vec: Entry("upsample", (0,), scales="spatial"),
        # Activation functions.
        aten.leaky_relu.default: replace(_function("leaky_relu"), scales="elementwise"),
        aten.prelu.default: replace(_function("prelu"), scales="elementwise"),
        aten.sigmoid.default: _function("sigmoid"),
        aten.tanh.default: _function("tanh"),
        aten.gelu.default: _function("gelu"),
        aten.silu.default: _function("silu"),
        aten.hardswish.default: _function("hardswish"),
        aten.hardsigmoid.default: _function("hardsigmoid"),
        aten.elu.default: _function("elu"),
        # Clamps: only the clamped value gets a site.
        aten.relu.default: Entry("relu", limits=lambda node: (0.0, math.inf), scales="elementwise", activation=True),
        aten.relu6.default: Entry("relu6", limits=lambda node: (0.0, 6.0), activation=True),
        aten.hardtanh.default: Entry("relu6", limits=_hardtanh, activation=True),
        aten.clamp.default: Entry("clamp", limits=_clamp, activation=True),
        aten.clamp_min.default: Entry("clamp", limits=_clamp, activation=True),
        # Values that only move.
        aten.slice.Tensor: _MOVE,
        aten.select.int: _MOVE,
        aten.pad.default: Entry(moves=True, fill=3),
        aten.constant_pad_nd.default: Entry(moves=True, fill=2),
        aten.max_pool1d.default: _WINDOW,
        aten.max_pool2d.default: _WINDOW,
        aten.max_pool3d.default: _WINDOW,
        aten.adaptive_max_pool2d.default: _WINDOW,
        aten.upsample_nearest1d.vec: _WINDOW,
        aten.upsample_nearest2d.vec: _WINDOW,
        aten.upsample_nearest3d.vec: _WINDOW,
        aten.view.default: _RESHAPE,
        aten.reshape.default: _RESHAPE,
        aten.flatten.using_ints: _RESHAPE,
        aten.squeeze.dim: _RESHAPE,
        aten.squeeze.dims: _RESHAPE,
        aten.squeeze.default: _MOVE,
        aten.unsqueeze.default: _MOVE,
        aten._unsafe_view.default: _MOVE,
        aten.unflatten.int: _MOVE,
        aten.permute.default: _MOVE,
        aten.transpose.int: _MOVE,
        aten.t.default: _MOVE,
        aten.expand.default: _MOVE,
        aten.expand_as.default: _MOVE,
        aten.channel_shuffle.default: _MOVE,
        aten.pixel_shuffle.default: _MOVE,
        aten.pixel_unshuffle.default: _MOVE,
        aten.index_select.default: _MOVE,
        aten.flip.default: _MOVE,
        aten.roll.default: _MOVE,
        aten.repeat.default: _MOVE,
        aten.to.dtype: _MOVE,
        aten._assert_tensor_metadata.default: _MOVE,
        aten.contiguous.default: _SAME,
        aten.clone.default: _SAME,
        aten.dropout.default: _SAME,
        aten.feature_dropout.default: _SAME,
        aten.alias.default: _SAME,
        aten.detach.default: _SAME,
        aten.split.Tensor: _PARTS,
        aten.unsafe_split.Tensor: _PARTS,
        aten.split_with_sizes.default: _PARTS,
        aten.chunk.default: _PARTS,
        aten.unbind.int: _PARTS,
        # Folded into the layer in front, or left in float.
        aten.batch_norm.default: Entry("batch_norm"),
        # Opened up into products of the kinds above.
        aten.scaled_dot_product_attention.default: _OPENED,
        aten.einsum.default: _OPENED,
        aten.addmm.default: _OPENED,
        aten.baddbmm.default: _OPENED,
        aten.addbmm.default: _OPENED,
        aten.mv.default: _OPENED,
        aten.addmv.default: _OPENED,
        aten.inner.default: _OPENED,
        aten.tensordot.default: _OPENED,
        aten.linalg_multi_dot.default: _OPENED,
        aten.chain_matmul.default: _OPENED,
        aten.bilinear.default: _OPENED,
        aten.convolution.default: _OPENED,
        aten.lstm_cell.default: _OPENED,
        aten.gru_cell.default: _OPENED,
        aten.rnn_tanh_cell.default: _OPENED,
        aten.rnn_relu_cell.default: _OPENED,
        # Taken apart into the recurrences of its layers.
        aten.lstm.input: Entry(recurrence=bitwright.lstm.default),
        aten.gru.input: Entry(recurrence=bitwright.gru.default),
        aten.rnn_tanh.input: Entry(recurrence=bitwright.rnn_tanh.default),
        aten.rnn_relu.input: Entry(recurrence=bitwright.rnn_relu.default),
        bitwright.whole_lstm.default: Entry(recurrence=bitwright.lstm.default),
        bitwright.whole_gru.default: Entry(recurrence=bitwright.gru.default),
        bitwright.whole_rnn_tanh.default: Entry(recurrence=bitwright.rnn_tanh.default),
        bitwright.whole_rnn_relu.default: Entry(recurrence=bitwright.rnn_relu.default),
    }
)

_UNKNOWN = Entry()


def entry_of(node: Node) -> Entry:
    """What is known of a node's operation; an entry that says nothing where it is not in the table."""
    return OPERATIONS.get(node.target, _UNKNOWN) if node.op == "call_function" else _UNKNOWN


def kind_of(node: Node) -> str:
    """The field's word for an operation, e.g. ``conv2d``; the ATen name where the table has none."""
    return entry_of(node).kind or str(getattr(node.target, "__name__", node.target)).split(".")[0]


def cap_of(node: Node) -> float | None:
    """The height at which a ReLU6 or a clamp from zero cuts off; None for other nodes."""
    limits = entry_of(node).limits
    low, high = limits(node) if limits is not None else (0.0, math.inf)
    return high if low == 0 and 0 < high < math.inf else None


def moves_only(node: Node) -> bool:
    """Whether the node's output holds only values of its input (and zeros)."""
    if node.target is operator.getitem:
        return isinstance(node.args[0], Node) and entry_of(node.args[0]).several
    entry = entry_of(node)
    if entry.fill is None:
        return entry.moves
    return argument(node, 2, "mode") in ("reflect", "replicate", "circular") or not argument(node, entry.fill, "value")


def source_of(node: Node) -> Node:
    """Follow a value back through operations that only move it."""
    while moves_only(node) and isinstance(node.args[0], Node):
        node = node.args[0]
    return node


def feeds_recurrence(node: Node) -> bool:
    """Whether a value is the part of the gates that the input of a recurrent layer makes: no runtime rounds that."""
    roles = [(user, entry_of(user).weight) for user in node.users]
    return bool(roles) and all(role and role.recurrent and user.args[role.input] is node for user, role in roles)


def rounds_bias(node: Node) -> bool:
    """Whether runtimes round the bias of an operation with a weight; they leave those of recurrent layers in float."""
    role = entry_of(node).layer
    return role is not None and not role.recurrent and not feeds_recurrence(node)


def siblings(node: Node) -> list[Node]:
    """The operation itself and, of a recurrence with a cell state, the one that gives that: they share all operands."""
    role = entry_of(node).layer
    return list(node.args[role.input].users) if role is not None and role.recurrent else [node]  # type: ignore[union-attr]


def bias_of(node: Node) -> Node | None:
    """The bias argument of an operation with a weight, if it has one."""
    role = entry_of(node).weight
    bias = argument(node, role.bias, "bias") if role is not None else None
    return bias if isinstance(bias, Node) else None


def channel_constants(node: Node) -> tuple[Node, ...]:
    """The constants (channels,) with which a node scales each channel of its output, along the last axis.

    A norm's weight and, behind it, its bias; the one factor of a multiplication by a vector, as an RMS norm ends with.
    Nothing for other nodes.
    """
    value = node.meta.get("val")
    if entry_of(node).kind == "layer_norm":
        shape = node.args[1]
        given = [node.args[position] for position in (2, 3) if len(node.args) > position]
        single = isinstance(shape, (list, tuple)) and len(shape) == 1
    else:
        given = list(node.args[:2]) if entry_of(node).kind == "mul" else []
        single = sum(isinstance(arg, Node) and arg.op == "get_attr" for arg in given) == 1 == len(given) - 1
    found = tuple(arg for arg in given if isinstance(arg, Node) and arg.op == "get_attr")
    sizes = [arg.meta["val"].shape for arg in found if isinstance(arg.meta.get("val"), torch.Tensor)]
    fits = isinstance(value, torch.Tensor) and all(size == value.shape[-1:] for size in sizes)
    return found if single and fits and len(sizes) == len(found) else ()
