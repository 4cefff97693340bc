"""What an exported file computes inside: the values at its sites, in ONNX Runtime."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bitwright.runtimes import engines

Array = npt.NDArray[Any]


def site_values(
    path: str | Path, inputs: Sequence[Any], names: Sequence[str], load: Callable[[Path], Callable[..., list[Array]]]
) -> dict[str, Array]:
    """The values at activation sites, float64: the integers that a file computes there, on their grids.

    The integers become outputs of a copy of the file, which leaves the kernels that make them as they are.
    """
    onnx = engines.onnx()
    model = onnx.load(str(path))
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    wanted: dict[str, Any] = {}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] not in constants:
            wanted.setdefault(node.input[1].removesuffix(".scale"), node)  # the first one is the site's own
    found = {name: wanted[name] for name in names if name in wanted}
    there = [output.name for output in model.graph.output]
    added = list(dict.fromkeys(node.input[0] for node in found.values() if node.input[0] not in there))
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in added)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "inside.onnx"
        onnx.save(model, str(target))
        values = dict(zip([*there, *added], load(target)(*inputs), strict=True))

    def real(node: Any) -> Array:
        scale, zero_point = (onnx.numpy_helper.to_array(constants[name]).reshape(-1)[0] for name in node.input[1:3])
        return np.asarray((values[node.input[0]].astype(np.float64) - float(zero_point)) * float(scale))

    return {name: real(node) for name, node in found.items()}
