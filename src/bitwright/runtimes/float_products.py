"""Weights of products that read float activations: integers in the file, floats once a runtime has loaded it."""

from __future__ import annotations

from typing import Any

from bitwright.runtimes.builder import Builder, replace

_PRODUCTS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
_MOVING = {"Reshape", "Transpose"}


def unpack_when_loaded(builder: Builder) -> None:
    """Replace DequantizeLinear on weights whose products compute in float anyway by a cast and a multiplication.

    Runtimes fold those once, when they load the file, but leave a DequantizeLinear for their integer kernels to
    find, and compute it anew in each run. The numbers are the same.
    """
    for node in list(builder.graph):
        if node.op_type != "DequantizeLinear" or not _constant(node.inputs[0]) or node.inputs[1].const_value is None:
            continue
        readers = _products(node.outputs[0])
        if readers is None or any(_quantized(reader.inputs[0]) for reader in readers):
            continue
        scale, sizes = node.inputs[1].const_value.numpy(), _sizes(node.inputs[0])
        block = node.attributes.get("block_size")
        if block is not None and sizes[1] % block.as_int():
            continue
        name = node.outputs[0].name
        result = builder.node(node, "Cast", [node.inputs[0]], f"{name}.real", {"to": int(builder.ir.DataType.FLOAT)})
        if block is not None:
            groups = builder.constant(f"{name}.groups", [sizes[0], -1, block.as_int()], "INT64")
            result = builder.node(node, "Reshape", [result, groups], f"{name}.grouped")
            scale = scale[..., None]
        elif scale.ndim:
            axis = node.attributes["axis"].as_int()
            scale = scale.reshape([-1 if place == axis else 1 for place in range(len(sizes))])
        result = builder.node(
            node, "Mul", [result, builder.constant(f"{name}.steps", scale, "FLOAT")], f"{name}.scaled"
        )
        if block is not None:
            whole = builder.constant(f"{name}.whole", sizes, "INT64")
            result = builder.node(node, "Reshape", [result, whole], f"{name}.weight")
        replace(node.outputs[0], result)


def _constant(value: Any) -> bool:
    """Whether a value is stored, or cast from what is."""
    maker = value.producer()
    return value.const_value is not None or (
        maker is not None and maker.op_type == "Cast" and _constant(maker.inputs[0])
    )


def _sizes(value: Any) -> list[int]:
    """The shape of such a value."""
    stored = value.const_value
    return [int(size) for size in stored.shape] if stored is not None else _sizes(value.producer().inputs[0])


def _products(value: Any) -> list[Any] | None:
    """The products that a value is the weight of, behind moves; None if anything else reads it."""
    found: list[Any] = []
    for node, index in value.uses():
        if node.op_type in _PRODUCTS and index == 1:
            found.append(node)
        elif node.op_type in _MOVING and (behind := _products(node.outputs[0])) is not None:
            found += behind
        else:
            return None
    return None if value.is_graph_output() else found


def _quantized(value: Any) -> bool:
    maker = value.producer()
    return maker is not None and maker.op_type == "DequantizeLinear"
