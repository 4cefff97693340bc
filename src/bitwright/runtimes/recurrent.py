"""Recurrent layers: the runtime's own LSTM, GRU and RNN, whose weights are stored as integers.

ONNX has one operator for a layer in one direction, its linear layer included. Runtimes pack the weights of such an
operator when they load a file, but only constants: a DequantizeLinear in front is computed anew in every run (a quarter
slower than float in ONNX Runtime). So the integers pass a Cast and a product with the steps, which runtimes fold.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from bitwright.graph.operations import aten, entry_of, siblings
from bitwright.numerics.affine import Affine
from bitwright.runtimes.builder import Builder, replace

Array = npt.NDArray[Any]

OPERATION = "Recurrence"
RECURRENCES = "bitwright_recurrences"
"""Submodule of the copy that holds what stands for its recurrent layers."""
_OPERATORS: dict[str, tuple[str, tuple[int, ...], dict[str, Any]]] = {
    "lstm": ("LSTM", (0, 3, 1, 2), {}),
    "gru": ("GRU", (1, 0, 2), {"linear_before_reset": 1}),
    "rnn_tanh": ("RNN", (0,), {"activations": ["Tanh"]}),
    "rnn_relu": ("RNN", (0,), {"activations": ["Relu"]}),
}
"""Recurrence -> ONNX operator, where PyTorch has each of its gates, and attributes."""
_WEIGHTS = (1, 2)
"""Inputs of the placeholder that are weights: of the layer's input, of the state."""


class Recurrence(nn.Module):
    """Stands where a linear layer and its recurrence were, and becomes one node of Bitwright's own domain."""

    def __init__(self, kind: str, reverse: bool) -> None:
        super().__init__()
        self.kind = kind
        self.reverse = reverse

    def forward(self, source: Tensor, *operands: Tensor | None) -> tuple[Tensor, Tensor]:
        """States (N, T, H) and the last cell state (N, H); only ever traced."""
        batch, length = source.shape[:2]
        recurrent = operands[1]
        assert recurrent is not None
        size = recurrent.shape[1]
        states, cell = torch.onnx.ops.symbolic_multi_out(
            f"bitwright::{OPERATION}",
            (source, *operands),
            {"kind": self.kind, "reverse": int(self.reverse), "size": size},
            dtypes=(source.dtype, source.dtype),
            shapes=((batch, length, size), (batch, size)),
            version=1,
        )
        return states, cell


def mark_recurrences(module: GraphModule) -> None:
    """Replace each recurrence, with the linear layer in front and what gives its cell state, by one node."""
    holder = nn.Module()
    module.add_module(RECURRENCES, holder)
    for node in list(module.graph.nodes):
        role = entry_of(node).layer
        if node.target == aten.dstack.default:  # both directions
            node.target, node.args = aten.cat.default, (node.args[0], 2)
        if role is None or not role.recurrent:
            continue
        gates = node.args[role.input]
        assert isinstance(gates, Node)
        given = dict(enumerate(node.args))
        hidden, reverse, cell = (given.get(role.arguments[name]) for name in ("hidden", "reverse", "cell"))
        front = gates.args if entry_of(gates).kind == "linear" else (gates, None)
        source, weight, bias = (*front, None)[:3]
        operands = (source, weight, node.args[role.weight], bias, given.get(role.bias or 0), hidden, cell)
        label = f"r{len(list(holder.children()))}"
        holder.add_module(label, Recurrence(str(node.target).split(".")[1], bool(reverse)))
        both = siblings(node)  # before the gates may get one more reader
        with module.graph.inserting_before(node):
            made = module.graph.call_module(f"{RECURRENCES}.{label}", operands)
            made.meta = {"nn_module_stack": node.meta.get("nn_module_stack") or {}}
        for sibling in both:
            with module.graph.inserting_before(sibling):
                part = module.graph.call_function(_part, (made, 0 if sibling is node else 1))
            part.meta = dict(sibling.meta)
            sibling.replace_all_uses_with(part)


def _part(values: tuple[Tensor, ...], index: int) -> Tensor:
    return values[index]


def _ordered(node: Any, values: Array) -> Array:
    """Values with one row for each gate and state, (G H, ...), in ONNX's order of gates."""
    order = _OPERATORS[node.attributes["kind"].as_string()][1]
    return values.reshape(len(order), -1, *values.shape[1:])[list(order)].reshape(values.shape)


def reads_weight(node: Any, index: int) -> bool:
    """Whether an input of an ONNX node is the weight of a recurrent layer."""
    return node.op_type == OPERATION and index in _WEIGHTS


def insert_recurrent_weight(
    builder: Builder, node: Any, index: int, name: str, values: Array, affine: Affine, dtype: str
) -> None:
    """Give a recurrence its weight as integers of which runtimes make floats when they load the file."""
    rows, columns = values.shape
    width = affine.group_size or columns  # that share a step
    padded = np.pad(values, ((0, 0), (0, -columns % width))).reshape(rows, -1, width)
    scale = np.broadcast_to(affine.scale.numpy().reshape(-1, padded.shape[1], 1), (*padded.shape[:2], 1))
    stored = builder.constant(f"{name}.integers", _ordered(node, padded), dtype)
    if dtype == "INT4":
        stored = builder.node(node, "Cast", [stored], f"{name}.int8", {"to": int(builder.ir.DataType.INT8)})
    real = builder.node(node, "Cast", [stored], f"{name}.real", {"to": int(builder.ir.DataType.FLOAT)})
    steps = builder.constant(f"{name}.scale", _ordered(node, scale), "FLOAT")
    product = builder.node(node, "Mul", [real, steps], f"{name}.groups")
    shape = builder.constant(f"{name}.shape", [1, rows, -1], "INT64")
    whole = builder.node(node, "Reshape", [product, shape], name)
    if padded.size > values.size:
        ends = [
            builder.constant(f"{name}.{word}", [end], "INT64")
            for word, end in (("start", 0), ("end", columns), ("axis", 2))
        ]
        whole = builder.node(node, "Slice", [whole, *ends], f"{name}.cut")
    node.replace_input_with(index, whole)


def insert_recurrences(builder: Builder) -> None:
    """Put the runtime's own operators where the placeholders are."""
    for node in [node for node in builder.graph if node.op_type == OPERATION]:
        _insert(builder, node)


def _insert(builder: Builder, node: Any) -> None:
    operator, order, attributes = _OPERATORS[node.attributes["kind"].as_string()]
    given = [*node.inputs, *[None] * 7]  # missing ones at the end are left out
    (source, weight, recurrent), biases, (hidden, cell) = given[:3], given[3:5], given[5:7]
    size = node.attributes["size"].as_int()
    rows = len(order) * size
    name = node.name.rpartition("/")[0] or operator.lower()

    def apply(operation: str, inputs: list[Any], **given: Any) -> Any:
        return builder.node(node, operation, inputs, f"{name}.{operation.lower()}", given)

    zero, one = (builder.constant(f"axis_{axis}", [axis], "INT64") for axis in (0, 1))
    inputs = [
        apply("Transpose", [source], perm=[1, 0, 2]),
        _weight(builder, node, weight, np.eye(rows, dtype=np.float32), f"{name}.identity"),
        _weight(builder, node, recurrent, None, recurrent.name),
        _biases(builder, node, biases, rows, f"{name}.bias"),
        None,
        None if hidden is None else apply("Unsqueeze", [hidden, zero]),
    ]
    if operator == "LSTM":
        inputs.append(None if cell is None else apply("Unsqueeze", [cell, zero]))
    while inputs[-1] is None:
        inputs.pop()
    attributes = {**attributes, "hidden_size": size}
    if node.attributes["reverse"].as_int():
        attributes["direction"] = "reverse"
    states, cells = node.outputs
    outputs = [builder.ir.Value(name=builder.unique(f"{name}.steps"))]
    if cells.uses() or cells.is_graph_output():
        outputs += [builder.ir.Value(name=""), builder.ir.Value(name=builder.unique(f"{name}.cells"))]
    made = builder.ir.node(operator, inputs, attributes, outputs=outputs)
    builder.graph.insert_before(node, made)
    made.name = builder.unique(f"{name}/{operator}")
    # Squeezed at once, OpenVINO takes both directions of a layer for one operator, and computes the reverse one wrong.
    steps = apply("Transpose", [outputs[0]], perm=[2, 1, 0, 3])  # (N, 1, T, H)
    replace(states, apply("Squeeze", [steps, one]))
    if len(outputs) > 1:
        replace(cells, apply("Squeeze", [outputs[2], zero]))


def _weight(builder: Builder, node: Any, value: Any, otherwise: Array | None, name: str) -> Any:
    """(1, G H, inputs): integers are in this shape and order already, floats are brought into it."""
    if value is not None and value.const_value is None:
        return value
    array = otherwise if value is None else value.const_value.numpy()
    assert array is not None
    return builder.constant(name, _ordered(node, array)[None], "FLOAT")


def _biases(builder: Builder, node: Any, biases: list[Any], rows: int, name: str) -> Any:
    """(1, 2 G H): that of the input, that of the state; None without any."""
    if all(bias is None for bias in biases):
        return None
    arrays = [np.zeros(rows, np.float32) if bias is None else bias.const_value.numpy() for bias in biases]
    return builder.constant(name, np.concatenate([_ordered(node, array) for array in arrays])[None], "FLOAT")
