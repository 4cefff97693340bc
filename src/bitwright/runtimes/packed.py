"""Weights of 4 bits that stay packed while they are multiplied: ONNX Runtime's MatMulNBits."""

from __future__ import annotations

from typing import Any

import numpy as np

from bitwright.runtimes.builder import Builder, replace

_DOMAIN = "com.microsoft"
_SIZES = (16, 32, 64, 128, 256)
"""Inputs that share a step, as the operator takes them."""


def use_packed_products(builder: Builder) -> None:
    """Replace products of float activations with weights of 4 bits in groups by MatMulNBits.

    It unpacks a weight piece by piece while it multiplies: a loaded file takes an eighth of float's memory for such
    weights, and one row, as when a language model writes word by word, takes less time than in float. Sums are float32.
    """
    for node in list(builder.graph):
        if node.op_type not in ("MatMul", "Gemm"):
            continue
        turned = node.inputs[1].producer()
        maker = turned.inputs[0].producer() if turned is not None and turned.op_type == "Transpose" else turned
        rows = turned is not maker or (node.op_type == "Gemm" and "transB" in node.attributes)
        packed = _packed(maker) if rows else None
        left = node.inputs[0].producer()
        if packed is None or (left is not None and left.op_type == "DequantizeLinear"):
            continue
        values, scale, size = packed
        inputs = [
            node.inputs[0],
            builder.constant(f"{maker.outputs[0].name}.packed", values, "UINT8"),
            builder.constant(f"{maker.outputs[0].name}.steps", scale.reshape(-1), "FLOAT"),
        ]
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            inputs += [None, None, node.inputs[2]]
        sizes = {"K": values.shape[1] * size, "N": values.shape[0], "bits": 4, "block_size": size}
        replace(node.outputs[0], builder.node(node, "MatMulNBits", inputs, f"{node.name}.product", sizes, _DOMAIN))
    builder.model.opset_imports.setdefault(_DOMAIN, 1)


def _packed(node: Any) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], int] | None:
    """Bytes (outputs, groups, size / 2), steps (outputs, groups) and size of the groups of a weight that is stored in
    4 bits; None for any other."""
    if node is None or node.op_type != "DequantizeLinear" or node.attributes.get("block_size") is None:
        return None
    cast, size = node.inputs[0].producer(), node.attributes["block_size"].as_int()
    stored = cast.inputs[0].const_value if cast is not None and cast.op_type == "Cast" else None
    if stored is None or stored.dtype.name != "INT4" or size not in _SIZES or stored.shape[1] % size:
        return None
    values = (stored.numpy().astype(np.int16) + 8).astype(np.uint8)  # the operator's zero is 8
    values = values.reshape(values.shape[0], -1, size)
    return values[..., 0::2] | (values[..., 1::2] << 4), node.inputs[1].const_value.numpy(), size
