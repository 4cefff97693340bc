"""Keeping runtimes from doing on their own what the policy did not ask for, or doing it inexactly."""

from __future__ import annotations

from typing import Any

import numpy as np

from bitwright.runtimes.builder import Builder

_EAGER = {"Conv", "ConvTranspose", "Gemm"}


def keep_float_weights(builder: Builder) -> None:
    """Stop ONNX Runtime from rounding float weights and biases to 8 bits on its own.

    Between quantized activations it does so with every float weight of a convolution or Gemm (its
    ``WeightBiasQuantization`` pass), one step for the whole tensor, and predictions change. It leaves operations alone
    whose input is dequantized with one step for each channel, so such operations get their input that way, with the
    same step in every channel. One channel has one step whatever one writes; there a concatenation of one tensor
    stands between the input and the operation.
    """
    for node in list(builder.graph):
        if node.op_type not in _EAGER or node.inputs[0] is None:
            continue
        pair = node.inputs[0].producer()
        if pair is None or pair.op_type != "DequantizeLinear" or not any(_is_float(v) for v in node.inputs[1:]):
            continue
        channels = _channels(node)
        if channels is None or len(pair.inputs) < 3:
            continue
        scale, zero_point = pair.inputs[1].const_value, pair.inputs[2].const_value
        if scale is None or zero_point is None or scale.size != 1:
            continue
        name = node.name
        if channels == 1:
            node.replace_input_with(0, builder.node(node, "Concat", [node.inputs[0]], f"{name}.input", {"axis": 1}))
            continue
        inputs = [
            pair.inputs[0],
            builder.constant(f"{name}.scale", np.full(channels, scale.numpy().reshape(())), "FLOAT"),
            builder.constant(
                f"{name}.zero_point", np.full(channels, zero_point.numpy().reshape(())), zero_point.dtype.name
            ),
        ]
        result = builder.node(node, "DequantizeLinear", inputs, f"{name}.input", {"axis": 1})
        node.replace_input_with(0, result)


def keep_softmax_exact(builder: Builder) -> None:
    """Stop ONNX Runtime from computing a softmax between quantized activations with its integer kernel.

    That kernel takes the step's reciprocal for a whole number: with most steps probabilities come out too small, by one
    step in 4 % of the elements at 4 bits. It is also slower than the float one by a factor of two to three. An absolute
    value behind the softmax, which changes no probability, keeps the pattern from being recognised.
    """
    for node in list(builder.graph):
        producer = node.inputs[0].producer() if node.op_type == "QuantizeLinear" and node.inputs[0] else None
        if producer is not None and producer.op_type == "Softmax":
            positive = builder.node(node, "Abs", [node.inputs[0]], f"{node.inputs[0].name}.exact")
            node.replace_input_with(0, positive)


def _is_float(value: Any) -> bool:
    return value is not None and value.is_initializer() and value.dtype is not None and value.dtype.name == "FLOAT"


def _channels(node: Any) -> int | None:
    """Size of axis 1 of a node's input, read from its weight."""
    shape = None if node.inputs[1] is None else node.inputs[1].shape
    if shape is None:
        return None
    if node.op_type == "Gemm":
        transposed = node.attributes.get("transB")
        return int(shape[1] if transposed is not None and transposed.as_int() else shape[0])
    if node.op_type == "ConvTranspose":
        return int(shape[0])
    group = node.attributes.get("group")
    return int(shape[1]) * (group.as_int() if group is not None else 1)
