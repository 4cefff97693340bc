"""Weights and biases as integers: an initializer of the smallest type that holds the grid, and DequantizeLinear."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bitwright.errors import ExportError
from bitwright.numerics.affine import Affine, dequantized
from bitwright.quantizers.base import Quantizer
from bitwright.quantizers.bias import BiasQuantizer
from bitwright.runtimes.builder import Builder, replace
from bitwright.runtimes.recurrent import insert_recurrent_weight, reads_weight

Array = npt.NDArray[Any]


def stored_type(bits: int, storage: str) -> str:
    """The ONNX type that holds a weight: INT4 to 4 bits, INT8 to 8, INT16 to 16."""
    if bits <= 4 and storage != "int8":
        return "INT4"
    return "INT8" if bits <= 8 else "INT16"


def weight_integers(quantizer: Quantizer) -> tuple[Affine, Array]:
    """The current grid and the integers that the simulation uses, int64, in the weight's shape.

    Raises:
        ExportError: what stands at the site does not round to its grid.
    """
    assert quantizer.bits is not None
    affine = quantizer.grid(quantizer.bits).to(torch.device("cpu"))
    found = quantizer.integers(quantizer.bits).cpu()
    if not torch.equal(dequantized(found, affine), quantizer.rounded(quantizer.bits).cpu()):
        raise ExportError(
            f"the {type(quantizer).__name__} at site '{quantizer.site.name}' gives other values than its integers on "
            f"its {quantizer.bits}-bit grid; bitwright.testing.QuantizerContract checks a quantizer"
        )
    return affine, found.numpy().astype(np.int64)


def insert_weight(builder: Builder, marker: Any, quantizer: Quantizer, storage: str) -> dict[str, Any]:
    """Put the integers of a weight where its marker is; returns what the scales file says of it."""
    assert quantizer.bits is not None
    site = quantizer.site
    affine, values = weight_integers(quantizer)
    dtype = stored_type(quantizer.bits, storage)
    output = marker.outputs[0]
    gathers = [node for node, index in output.uses() if node.op_type == "Gather" and index == 0]
    for node in gathers:
        _insert_table(builder, node, site.name, values, affine, dtype)
    for node, index in output.uses():
        if reads_weight(node, index):
            insert_recurrent_weight(builder, node, index, site.name, values, affine, dtype)
    if len(gathers) < len(output.uses()):
        real = _dequantized_weight(builder, marker, site.name, values, affine, dtype)
        real.type, real.shape = output.type, builder.ir.Shape(values.shape)
        replace(output, real)
    scheme = site.scheme
    per_channel = affine.group_size is None and affine.scale.numel() > 1
    return {
        "kind": "weight",
        "bits": quantizer.bits,
        "dtype": dtype,
        "low": affine.low,
        "high": affine.high,
        "zero_point": 0,
        "axis": _axis(affine) if per_channel else (0 if affine.group_size else None),
        "group_size": affine.group_size,
        "narrow": scheme.narrow,
        "scale": _plain(affine.scale),
    }


def _plain(scale: Tensor) -> float | list[Any]:
    if scale.numel() == 1:
        return float(scale)
    return [float(s) for s in scale.flatten()] if scale.dim() != 3 or scale.shape[2] != 1 else scale.squeeze(2).tolist()


def _axis(affine: Affine) -> int:
    """The axis along which a per-channel grid has its steps."""
    return max(range(affine.scale.dim()), key=lambda axis: affine.scale.shape[axis])


def _integer_initializer(builder: Builder, anchor: Any, name: str, values: Array, dtype: str) -> tuple[Any, str]:
    """The stored integers, as the type that integer kernels read; returns (value, type).

    Kernels take 8-bit weights. A Cast behind 4-bit ones keeps the file small, and runtimes fold it when they load.
    """
    stored = builder.constant(f"{name}.integers", values, dtype)
    if dtype != "INT4":
        return stored, dtype
    cast = builder.node(anchor, "Cast", [stored], f"{name}.int8", {"to": int(builder.ir.DataType.INT8)})
    return cast, "INT8"


def _dequantized_weight(builder: Builder, anchor: Any, name: str, values: Array, affine: Affine, dtype: str) -> Any:
    scale = affine.scale.numpy()
    if affine.group_size is not None:
        return _dequantized_groups(builder, anchor, name, values, affine, dtype)
    stored, kind = _integer_initializer(builder, anchor, name, values, dtype)
    if scale.size == 1:
        attributes, scale = {}, scale.reshape(())
    else:
        attributes, scale = {"axis": _axis(affine)}, scale.reshape(-1)
    inputs = [
        stored,
        builder.constant(f"{name}.scale", scale, "FLOAT"),
        builder.constant(f"{name}.zero_point", np.zeros(scale.shape), kind),
    ]
    return builder.node(anchor, "DequantizeLinear", inputs, name, attributes)


def _dequantized_groups(builder: Builder, anchor: Any, name: str, values: Array, affine: Affine, dtype: str) -> Any:
    """Blocked DequantizeLinear over (O, inputs), reshaped where the weight has more dimensions."""
    rows, columns = values.shape[0], math.prod(values.shape[1:])
    stored, kind = _integer_initializer(builder, anchor, name, values.reshape(rows, columns), dtype)
    scale = affine.scale.numpy().reshape(rows, -1)
    inputs = [
        stored,
        builder.constant(f"{name}.scale", scale, "FLOAT"),
        builder.constant(f"{name}.zero_point", np.zeros(scale.shape), kind),
    ]
    attributes = {"axis": 1, "block_size": affine.group_size}
    result = builder.node(anchor, "DequantizeLinear", inputs, name, attributes)
    if values.ndim == 2:
        return result
    shape = builder.constant(f"{name}.shape", values.shape, "INT64")
    return builder.node(anchor, "Reshape", [result, shape], f"{name}.reshaped")


def _insert_table(builder: Builder, gather: Any, name: str, values: Array, affine: Affine, dtype: str) -> None:
    """An embedding: look up integers and steps, then multiply; the table itself is never dequantized as a whole."""
    if affine.group_size is not None:
        _insert_grouped_table(builder, gather, name, values, affine, dtype)
        return
    ids = gather.inputs[1]
    scale = affine.scale.numpy()
    stored, _ = _integer_initializer(builder, gather, name, values, dtype)
    rows = builder.node(gather, "Gather", [stored, ids], f"{name}.rows")
    real = builder.node(gather, "Cast", [rows], f"{name}.real", {"to": int(builder.ir.DataType.FLOAT)})
    if scale.size == 1:
        steps = builder.constant(f"{name}.scale", scale.reshape(()), "FLOAT")
    else:
        table = builder.constant(f"{name}.scale", scale, "FLOAT")
        if scale.shape[0] == 1:
            steps = table
        else:
            steps = builder.node(gather, "Gather", [table, ids], f"{name}.steps")
    result = builder.node(gather, "Mul", [real, steps], name)
    replace(gather.outputs[0], result)


def _insert_grouped_table(builder: Builder, gather: Any, name: str, values: Array, affine: Affine, dtype: str) -> None:
    """The same for steps per group: rows are cut into groups before they meet their steps, and joined again."""
    ids, (rows, columns), size = gather.inputs[1], values.shape, affine.group_size
    assert size is not None
    steps = affine.scale.numpy().reshape(rows, -1, 1)
    groups = steps.shape[1]
    padded = np.pad(values, ((0, 0), (0, groups * size - columns)))
    stored, _ = _integer_initializer(builder, gather, name, padded, dtype)
    found = builder.node(gather, "Gather", [stored, ids], f"{name}.rows")
    real = builder.node(gather, "Cast", [found], f"{name}.real", {"to": int(builder.ir.DataType.FLOAT)})
    same = [0] * len(ids.shape)  # sizes that stay
    cut = builder.node(
        gather,
        "Reshape",
        [real, builder.constant(f"{name}.groups", [*same, groups, size], "INT64")],
        f"{name}.grouped",
    )
    table = builder.constant(f"{name}.scale", steps, "FLOAT")
    scaled = builder.node(
        gather, "Mul", [cut, builder.node(gather, "Gather", [table, ids], f"{name}.steps")], f"{name}.scaled"
    )
    whole = builder.constant(f"{name}.whole", [*same, groups * size], "INT64")
    result = builder.node(gather, "Reshape", [scaled, whole], name)
    if groups * size > columns:
        ends = [builder.constant(f"{name}.{word}", [at], "INT64") for word, at in (("first", 0), ("last", columns))]
        last = builder.constant(f"{name}.axis", [-1], "INT64")
        result = builder.node(gather, "Slice", [result, *ends, last], f"{name}.cut")
    replace(gather.outputs[0], result)


def insert_bias(builder: Builder, marker: Any, quantizer: BiasQuantizer, bias: Tensor) -> dict[str, Any]:
    """Put a bias in int32 steps of input step x weight step where its marker is.

    Integer kernels take no other steps; a bias that needs larger ones to fit into int32 is stored in float.
    """
    scale = quantizer.scale(bias)
    assert scale is not None
    array = scale.numpy().reshape(() if scale.numel() == 1 else -1)
    name = quantizer.name
    values = quantizer.integers(bias).numpy()
    if quantizer.saturated(bias):
        replace(marker.outputs[0], builder.constant(f"{name}.values", values.astype(np.float32) * array, "FLOAT"))
        return {"dtype": "FLOAT", "scale": _plain(scale), "saturated": True}
    inputs = [
        builder.constant(f"{name}.integers", values.astype(np.int64), "INT32"),
        builder.constant(f"{name}.scale", array, "FLOAT"),
    ]
    attributes = {"axis": 0} if array.ndim else {}
    replace(marker.outputs[0], builder.node(marker, "DequantizeLinear", inputs, name, attributes))
    return {"dtype": "INT32", "scale": _plain(scale), "saturated": False}
