"""ONNX Runtime: the only file that talks to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bitwright.errors import InvalidInput, MissingExtra


def _package() -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtra("onnxruntime", "onnx", "to run exported models") from None
    return onnxruntime


def version() -> str:
    """Name and version, e.g. ``onnxruntime 1.31.1``."""
    return f"onnxruntime {_package().__version__}"


def session(
    path: str | Path, optimised: bool = True, threads: int = 1, save_optimised: str | Path | None = None
) -> Any:
    """Load a file.

    Args:
        path: the ONNX file.
        optimised: with the runtime's graph optimisations (fused integer kernels), or with all of them off.
        threads: threads of one run.
        save_optimised: where to write the graph as the runtime will run it.

    Raises:
        MissingExtra: ONNX Runtime is not installed.
        InvalidInput: it cannot load the file.
    """
    package = _package()
    options = package.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    levels = package.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
    if save_optimised is not None:
        options.optimized_model_filepath = str(save_optimised)
    try:
        return package.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        first = str(error).strip().splitlines()[0]
        raise InvalidInput(f"ONNX Runtime cannot load '{path}': {first}") from error


def run(loaded: Any, inputs: tuple[Any, ...]) -> Any:
    """One batch through a session: inputs as tensors or arrays, in the order of the graph; the first output."""
    names = [entry.name for entry in loaded.get_inputs()]
    arrays = [
        np.ascontiguousarray(value.detach().cpu().numpy() if hasattr(value, "detach") else value) for value in inputs
    ]
    return loaded.run(None, dict(zip(names, arrays, strict=True)))[0]
