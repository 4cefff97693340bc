"""Activations: QuantizeLinear, a clip to grids narrower than their type, DequantizeLinear; and again behind moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bitwright.quantizers.base import Quantizer
from bitwright.runtimes.builder import Builder, replace
from bitwright.runtimes.dynamic import insert_dynamic

# Operations that only move values, with the position of the moved input. Runtimes run them on integers when the same
# QuantizeLinear stands behind them as in front.
MOVES = {
    "Expand",
    "Flatten",
    "Gather",
    "Identity",
    "MaxPool",
    "Reshape",
    "Slice",
    "Squeeze",
    "Tile",
    "Transpose",
    "Unsqueeze",
}
# MaxPool has no kernel for 16-bit integers.
_NO_16_BIT = {"MaxPool"}


@dataclass(frozen=True)
class Grid:
    """An activation's grid as it is stored.

    Attributes:
        name: of the site.
        dtype: ONNX type.
        scale: step.
        zero_point: integer that stands for 0.0.
        low: smallest integer.
        high: largest integer.
    """

    name: str
    dtype: str
    scale: float
    zero_point: int
    low: int
    high: int

    @property
    def limits(self) -> tuple[int, int]:
        """Smallest and largest integer of the type."""
        info = np.iinfo(self.dtype.lower())
        return int(info.min), int(info.max)


def stored_grid(quantizer: Quantizer) -> Grid:
    """The current grid, moved to an unsigned type.

    x86 kernels are made for unsigned activations; adding 128 to integers and zero point changes no value. Probabilities
    on a grid that ends below 1.0 get a 16-bit type: ONNX Runtime's 8-bit softmax overflows there instead of saturating.
    """
    assert quantizer.bits is not None
    affine = quantizer.grid(quantizer.bits)
    narrow = quantizer.site.operation == "softmax" and (255 - float(affine.zero_point)) * float(affine.scale) < 1.0
    width = 8 if quantizer.bits <= 8 and not narrow else 16
    shift = 1 << (width - 1) if affine.low < 0 else 0
    return Grid(
        quantizer.site.name,
        f"UINT{width}",
        float(affine.scale),
        int(affine.zero_point) + shift,
        affine.low + shift,
        affine.high + shift,
    )


def insert_activation(builder: Builder, marker: Any, quantizer: Quantizer) -> dict[str, Any]:
    """Put QuantizeLinear and DequantizeLinear where a marker is; returns what the scales file says of the site."""
    assert quantizer.bits is not None
    if quantizer.dynamic:
        return insert_dynamic(builder, marker, quantizer)
    grid = stored_grid(quantizer)
    source, low, high = _without_clamp(marker, grid)
    result = _pair(builder, marker, source, grid, low, high)
    replace(marker.outputs[0], result)
    _behind_moves(builder, result, grid)
    return {
        "kind": "activation",
        "bits": quantizer.bits,
        "dtype": grid.dtype,
        "low": grid.low,
        "high": grid.high,
        "zero_point": grid.zero_point,
        "scale": grid.scale,
    }


def _pair(builder: Builder, anchor: Any, source: Any, grid: Grid, low: int, high: int) -> Any:
    scale = builder.constant(f"{grid.name}.scale", np.float32(grid.scale), "FLOAT")
    zero_point = builder.constant(f"{grid.name}.zero_point", grid.zero_point, grid.dtype)
    narrow = (low, high) != grid.limits
    if narrow and grid.dtype == "UINT16":
        # ONNX Runtime has no Clip for 16-bit integers; clipping the real numbers to grid points is the same.
        ends = [np.float32((end - grid.zero_point) * np.float32(grid.scale)) for end in (low, high)]
        limits = [builder.constant(f"{grid.name}.{word}", ends[i], "FLOAT") for i, word in enumerate(("low", "high"))]
        source = builder.node(anchor, "Clip", [source, *limits], f"{grid.name}.clipped")
    integers = builder.node(anchor, "QuantizeLinear", [source, scale, zero_point], f"{grid.name}.integers")
    if narrow and grid.dtype == "UINT8":
        limits = [
            builder.constant(f"{grid.name}.{word}", end, grid.dtype) for word, end in (("low", low), ("high", high))
        ]
        integers = builder.node(anchor, "Clip", [integers, *limits], f"{grid.name}.clipped")
    return builder.node(anchor, "DequantizeLinear", [integers, scale, zero_point], grid.name)


def _without_clamp(marker: Any, grid: Grid) -> tuple[Any, int, int]:
    """Move a ReLU, ReLU6 or clamp in front of the marker into the limits of the integers.

    Rounding keeps the order of numbers, so clipping before it or after it is the same; behind it, the operation in
    front keeps its integer kernel. A clamp that the integer type makes anyway stays where it is: runtimes drop it.

    Returns:
        What to quantize, and the limits.
    """
    source, low, high = marker.inputs[0], grid.low, grid.high
    node = source.producer()
    if node is None or node.op_type not in ("Relu", "Clip") or len(source.uses()) != 1 or source.is_graph_output():
        return source, low, high
    ends = _clamp_limits(node)
    if ends is None or grid.dtype != "UINT8":
        return source, low, high
    scale = torch.tensor(grid.scale)
    steps = [
        None if end is None else int(torch.div(torch.tensor(end), scale).round().clamp(-1e6, 1e6)) + grid.zero_point
        for end in ends
    ]
    bottom, top = grid.limits
    if (steps[0] is None or steps[0] <= bottom) and (steps[1] is None or steps[1] >= top):
        return source, low, high
    low = low if steps[0] is None else min(max(low, steps[0]), high)
    high = high if steps[1] is None else max(min(high, steps[1]), low)
    return node.inputs[0], low, high


def _clamp_limits(node: Any) -> tuple[float | None, float | None] | None:
    """The ends of a Relu or Clip, None where it has none; None for a Clip with computed ends."""
    if node.op_type == "Relu":
        return 0.0, None
    ends: list[float | None] = []
    for value in (*node.inputs[1:], None, None)[:2]:
        if value is None:
            ends.append(None)
        elif value.const_value is None:
            return None
        else:
            ends.append(float(value.const_value.numpy().reshape(())))
    return ends[0], ends[1]


def _behind_moves(builder: Builder, value: Any, grid: Grid) -> None:
    """Quantize again, to the same integers, behind every operation that only moves the value."""
    for node, index in list(value.uses()):
        if index != 0 or len(node.outputs) != 1:
            continue
        if node.op_type == "Pad" and _pads_zero(node):
            # There is no Pad for 16-bit integers.
            wide = grid.dtype == "UINT16"
            moved = _quantized_behind(builder, node, grid) if wide else _pad_integers(builder, node, value)
        elif node.op_type in MOVES and not (grid.dtype == "UINT16" and node.op_type in _NO_16_BIT):
            moved = _quantized_behind(builder, node, grid)
        else:
            continue
        if moved is not None:
            _behind_moves(builder, moved, grid)


def _quantized_behind(builder: Builder, node: Any, grid: Grid) -> Any:
    output = node.outputs[0]
    uses = list(output.uses())
    if output.is_graph_output() or not uses or any(user.domain == "bitwright" for user, _ in uses):
        return None
    anchor = next(user for user in node.graph if any(user is reader for reader, _ in uses))
    result = _pair(builder, anchor, output, grid, *grid.limits)
    for user, index in uses:
        user.replace_input_with(index, result)
    return result


def _pads_zero(node: Any) -> bool:
    mode = node.attributes.get("mode")
    if mode is not None and mode.as_string() != "constant":
        return False
    value = node.inputs[2] if len(node.inputs) > 2 else None
    return value is None or (value.const_value is not None and float(value.const_value.numpy().reshape(())) == 0.0)


def _pad_integers(builder: Builder, node: Any, value: Any) -> Any:
    """Pad the integers with the zero point: no runtime takes a Pad between the pair as one step on integers."""
    pair = value.producer()
    zero_point = pair.inputs[2]
    axes = list(node.inputs[3:4])
    padded = builder.node(node, "Pad", [pair.inputs[0], node.inputs[1], zero_point, *axes], f"{node.name}.integers")
    result = builder.node(node, "DequantizeLinear", [padded, pair.inputs[1], zero_point], node.name)
    replace(node.outputs[0], result)
    return result
