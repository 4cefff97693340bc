"""Activations whose grid is made from each tensor, and the integer products that read them."""

from __future__ import annotations

from typing import Any

import numpy as np

from bitwright.quantizers.base import Quantizer
from bitwright.runtimes.builder import Builder, replace


def insert_dynamic(builder: Builder, marker: Any, quantizer: Quantizer) -> dict[str, Any]:
    """Put a quantization by the tensor's own range where a marker is; returns what the scales file says of the site.

    ``DynamicQuantizeLinear`` at 8 bits; at other widths the same arithmetic, operation by operation.
    """
    bits, name = quantizer.bits, quantizer.site.name
    assert bits is not None
    dtype = "UINT8" if bits <= 8 else "UINT16"
    if bits == 8:
        integers, scale, zero = builder.nodes(
            marker, "DynamicQuantizeLinear", [marker.inputs[0]], [f"{name}.integers", f"{name}.scale", f"{name}.zero"]
        )
    else:
        integers, scale, zero = _by_hand(builder, marker, name, (1 << bits) - 1, dtype)
    integers.dtype = builder.ir.DataType[dtype]
    real = builder.node(marker, "DequantizeLinear", [integers, scale, zero], name)
    replace(marker.outputs[0], real)
    about = {"kind": "activation", "bits": bits, "dtype": dtype, "low": 0, "high": (1 << bits) - 1}
    return {**about, "zero_point": None, "scale": None, "dynamic": True}


def _by_hand(builder: Builder, marker: Any, name: str, levels: int, dtype: str) -> tuple[Any, Any, Any]:
    """Integers, step and zero point of a tensor on a grid of 0..levels between its smallest and largest value."""
    source = marker.inputs[0]

    def node(operation: str, *inputs: Any, **attributes: Any) -> Any:
        return builder.node(marker, operation, list(inputs), f"{name}.{operation}", attributes)

    def number(value: float) -> Any:
        return builder.constant(f"{name}.number", np.float32(value), "FLOAT")

    bottom = node("Min", node("ReduceMin", source, keepdims=0), number(0))
    top = node("Max", node("ReduceMax", source, keepdims=0), number(0))
    span = node("Sub", top, bottom)
    step = node("Where", node("Equal", span, number(0)), number(1), node("Div", span, number(levels)))
    start = node("Round", node("Clip", node("Sub", number(0), node("Div", bottom, step)), number(0), number(levels)))
    zero = node("Cast", start, to=int(builder.ir.DataType[dtype]))
    # The type's own end lies above the grid's; no runtime clips integers of all types, but reals are as good.
    capped = node("Min", source, node("Mul", node("Sub", number(levels), start), step))
    return node("QuantizeLinear", capped, step, zero), step, zero


def use_integer_products(builder: Builder) -> None:
    """Multiply dynamically quantized activations with 8-bit weights as integers: MatMulInteger, then the two steps.

    Runtimes fuse a static pair around a product by themselves, but not one whose step is computed.
    """
    for node in list(builder.graph):
        if node.op_type not in ("MatMul", "Gemm"):
            continue
        left, right = node.inputs[0].producer(), node.inputs[1].producer()
        turned = right if right is not None and right.op_type == "Transpose" else None
        weight = right if turned is None else turned.inputs[0].producer()
        transposed = turned is not None or "transB" in node.attributes
        if not _is_dynamic(left) or not _is_integer_weight(weight):
            continue
        name = node.name
        values, scale = weight.inputs[0], weight.inputs[1]
        if transposed:
            values = builder.node(node, "Transpose", [values], f"{name}.weight", {"perm": [1, 0]})
        sums = builder.node(node, "MatMulInteger", [left.inputs[0], values, left.inputs[2]], f"{name}.sums")
        real = builder.node(node, "Cast", [sums], f"{name}.real", {"to": int(builder.ir.DataType.FLOAT)})
        step = builder.node(node, "Mul", [left.inputs[1], scale], f"{name}.step")
        result = builder.node(node, "Mul", [real, step], f"{name}.product")
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            result = builder.node(node, "Add", [result, node.inputs[2]], f"{name}.sum")
        replace(node.outputs[0], result)


def _is_dynamic(node: Any) -> bool:
    """Whether a node dequantizes 8-bit integers with a step that is computed."""
    if node is None or node.op_type != "DequantizeLinear" or node.inputs[1].const_value is not None:
        return False
    kind = node.inputs[0].dtype
    return kind is not None and kind.name == "UINT8"


def _is_integer_weight(node: Any) -> bool:
    """Whether a node dequantizes a weight of 8 bits or fewer with one step for each output channel, or one alone."""
    if node is None or node.op_type != "DequantizeLinear" or node.inputs[1].const_value is None:
        return False
    if node.attributes.get("block_size") is not None:
        return False
    return bool(node.inputs[2].dtype.name == "INT8")
