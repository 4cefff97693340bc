"""OpenVINO on the CPU: it reads the ONNX files that ONNX Runtime gets, and makes integer kernels of its own of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bitwright.errors import ExportError, InvalidData, InvalidInput, MissingExtra, first_line
from bitwright.runtimes import engines
from bitwright.runtimes.onnxruntime import OnnxRuntime, as_array
from bitwright.runtimes.runtime import RUNTIMES, Array, random_arrays

_MOVING = {
    *("Input", "Output", "Const", "Constant", "Reorder", "Reshape", "Convert", "FakeQuantize", "Quantize", "Transpose"),
    *("StridedSlice", "Pad", "Split", "Concatenation", "Gather", "Result", "Parameter"),
}
"""Layers that lead from float to integers and back, or move values."""


def _openvino() -> Any:
    try:
        import openvino
    except ImportError:
        raise MissingExtra("openvino", "openvino", "to run exported models") from None
    return openvino


def _compiled(path: str | Path, optimised: bool, threads: int) -> Any:
    """The file as OpenVINO runs it.

    What stays in float is computed in float32, as it was simulated, where OpenVINO would take bfloat16 on processors
    that have it. Without optimisations, quantized values are computed in float32 as well.
    """
    runtime = _openvino()
    if not Path(path).is_file():
        raise InvalidInput(f"there is no file '{path}'; export the graph first")
    if threads < 1:
        raise InvalidInput(f"threads must be at least 1, got {threads}")
    settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    if not optimised:
        settings |= {"LP_TRANSFORMS_MODE": "NO", "SNIPPETS_MODE": "DISABLE"}
    try:
        core = runtime.Core()
        return core.compile_model(core.read_model(str(path)), "CPU", settings)
    except Exception as error:
        raise ExportError(f"OpenVINO cannot load '{path}': {first_line(error)}") from error


class Session:
    """A file that is loaded and can be run; arguments and errors as for ONNX Runtime's."""

    def __init__(self, path: str | Path, optimised: bool = True, threads: int = 1) -> None:
        self._compiled = _compiled(path, optimised, threads)
        model = engines.onnx().load(str(path), load_external_data=False)
        self.metadata: Mapping[str, str] = {entry.key: entry.value for entry in model.metadata_props}

    def __call__(self, *inputs: Any) -> list[Array]:
        """Run the file; inputs in the order of the model's."""
        if len(inputs) != len(self._compiled.inputs):
            raise InvalidInput(f"the file takes {len(self._compiled.inputs)} inputs, got {len(inputs)}")
        try:
            found = self._compiled([as_array(value) for value in inputs])
        except Exception as error:
            raise InvalidData(f"OpenVINO cannot run the file on these inputs: {first_line(error)}") from error
        return [np.array(found[place]) for place in range(len(self._compiled.outputs))]

    def random_inputs(self, batch: int, seed: int = 0) -> list[Array]:
        """Inputs of the right shapes and types: normal values; zeros where the model takes integers."""
        entries = (
            ([None if size.is_dynamic else size.get_length() for size in entry.get_partial_shape()], entry)
            for entry in self._compiled.inputs
        )
        return random_arrays(((sizes, entry.get_element_type().to_dtype()) for sizes, entry in entries), batch, seed)


class OpenVino(OnnxRuntime):
    """OpenVINO on the CPU."""

    name, order = "openvino", 20
    does = "OpenVINO on the CPU."
    called = "OpenVINO"
    packages = ("onnx", "onnx_ir", "onnxscript", "openvino")
    extra = "openvino"

    def version(self) -> str:
        """Name and version, e.g. ``OpenVINO 2026.4.1``.

        Raises:
            MissingExtra: it is not installed.
        """
        return f"{self.called} {_openvino().get_version().partition('-')[0]}"

    def load(self, path: str | Path, optimised: bool = True, threads: int = 1) -> Session:  # type: ignore[override]
        """Load a file."""
        return Session(path, optimised, threads)

    def site_values(self, *args: Any, **options: Any) -> dict[str, Array]:
        """None: values inside are not looked at."""
        return {}

    def unfused(self, path: str | Path) -> tuple[str, ...]:
        """Read from the graph that it makes of the file."""
        found: dict[str, None] = {}
        for layer in _compiled(path, True, 1).get_runtime_model().get_ordered_ops():
            about = layer.get_rt_info()
            kind, precision = (about[key].astype(str) for key in ("layerType", "runtimePrecision"))
            if precision in ("f32", "bf16", "f16") and kind not in _MOVING:
                module, slash, _ = layer.get_friendly_name().partition("/")
                found[f"{module} ({kind})" if slash else kind] = None
        return tuple(found)


RUNTIMES.register(OpenVino())
