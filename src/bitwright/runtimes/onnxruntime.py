"""ONNX Runtime: running exported files, and seeing which of their operations it runs in integers."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from bitwright.errors import ExportError, InvalidData, InvalidInput, MissingExtra, first_line
from bitwright.files import atomic_files
from bitwright.graph.graph import Graph
from bitwright.runtimes import engines
from bitwright.runtimes.export import native_bits, write
from bitwright.runtimes.inside import site_values
from bitwright.runtimes.runtime import RUNTIMES, Array, ExportResult, Runtime, random_arrays
from bitwright.runtimes.weights import stored_type
from bitwright.values import Site

# Operations that compute with integers, move values, or lead from one to the other.
_INTEGER = {
    "ConvInteger",
    "DequantizeLinear",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "QGemm",
    "QuantizeLinear",
}
_MOVING = {
    "Cast",
    "Concat",
    "Constant",
    "DepthToSpace",
    "Expand",
    "Flatten",
    "Gather",
    "GatherElements",
    "Identity",
    "MaxPool",
    "NhwcMaxPool",
    "Pad",
    "ReorderInput",
    "ReorderOutput",
    "Reshape",
    "Resize",
    "Shape",
    "Slice",
    "SpaceToDepth",
    "Split",
    "Squeeze",
    "Tile",
    "Transpose",
    "Unsqueeze",
}

_TYPES: Mapping[str, type[np.generic]] = {
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
}
"""Types of inputs beside float32."""


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtra("onnxruntime", "onnx", "to run exported models") from None
    return onnxruntime


class Session:
    """A file that is loaded and can be run.

    Args:
        path: of the file.
        optimised: with all of the runtime's graph optimisations (fused integer kernels), or with none: each operation
            as it stands in the file.
        threads: used inside an operation.
        optimised_path: where to save the graph that the runtime made of the file.

    Raises:
        MissingExtra: ONNX Runtime is not installed.
        InvalidInput: there is no such file.
        ExportError: ONNX Runtime cannot load it.
    """

    def __init__(
        self, path: str | Path, optimised: bool = True, threads: int = 1, optimised_path: Path | None = None
    ) -> None:
        runtime = _onnxruntime()
        if not Path(path).is_file():
            raise InvalidInput(f"there is no file '{path}'; export the graph first")
        if threads < 1:
            raise InvalidInput(f"threads must be at least 1, got {threads}")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # errors come as exceptions
        level = runtime.GraphOptimizationLevel
        options.graph_optimization_level = level.ORT_ENABLE_ALL if optimised else level.ORT_DISABLE_ALL
        if optimised_path is not None:
            options.optimized_model_filepath = str(optimised_path)
        try:
            self._session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ExportError(f"ONNX Runtime cannot load '{path}': {first_line(error)}") from error
        self._inputs = self._session.get_inputs()

    @property
    def metadata(self) -> dict[str, str]:
        """What the export wrote into the file."""
        return dict(self._session.get_modelmeta().custom_metadata_map)

    def __call__(self, *inputs: Any) -> list[Array]:
        """Run the file; inputs in the order of the model's.

        Raises:
            InvalidInput: another number of inputs.
            InvalidData: inputs that the file cannot take.
        """
        if len(inputs) != len(self._inputs):
            raise InvalidInput(f"the file takes {len(self._inputs)} inputs, got {len(inputs)}")
        feeds = {entry.name: as_array(value) for entry, value in zip(self._inputs, inputs, strict=True)}
        try:
            found: list[Array] = self._session.run(None, feeds)
        except Exception as error:
            raise InvalidData(f"ONNX Runtime cannot run the file on these inputs: {first_line(error)}") from error
        return found

    def random_inputs(self, batch: int, seed: int = 0) -> list[Array]:
        """Inputs of the right shapes and types: normal values; zeros where the model takes integers."""
        return random_arrays(
            (
                ([size if isinstance(size, int) else None for size in entry.shape], _TYPES.get(entry.type, np.float32))
                for entry in self._inputs
            ),
            batch,
            seed,
        )


def as_array(value: Any) -> Array:
    """A tensor, or what NumPy makes an array of."""
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)


def _readable(node: Any) -> str:
    """``"module (operation)"`` from a node's name, which the export gave it and the runtime may have decorated."""
    module, slash, _ = str(node.name).removeprefix("fused ").strip().partition("/")
    return f"{module} ({node.op_type})" if module and slash else str(node.op_type)


class OnnxRuntime(Runtime):
    """ONNX Runtime on the CPU."""

    name, order = "onnxruntime", 10
    does = "ONNX Runtime on the CPU."
    called = "ONNX Runtime"
    suffix = ".onnx"
    packages = ("onnx", "onnx_ir", "onnxscript", "onnxruntime")
    extra = "onnx"

    def version(self) -> str:
        """Name and version, e.g. ``ONNX Runtime 1.31.1``.

        Raises:
            MissingExtra: it is not installed.
        """
        return f"{self.called} {_onnxruntime().__version__}"

    def export(self, graph: Graph, path: Path, storage: str = "smallest") -> ExportResult:
        """See :func:`~bitwright.runtimes.export.write`."""
        return write(graph, path, storage)

    def load(self, path: str | Path, optimised: bool = True, threads: int = 1) -> Session:
        """Load a file."""
        return Session(path, optimised, threads)

    def weight_bytes(self, site: Site, bits: int) -> float:
        """INT4 to 4 bits, two in a byte, INT8 to 8, INT16 above; for each scale 4 bytes and a zero of that type."""
        stored = native_bits(stored_type(bits, "smallest"))
        return math.ceil(site.numel * stored / 8) + site.scales * (4 + max(1, stored // 8))

    def site_values(
        self, path: str | Path, inputs: Sequence[Any], names: Sequence[str], optimised: bool = True, threads: int = 1
    ) -> dict[str, Array]:
        """See :func:`~bitwright.runtimes.inside.site_values`."""
        return site_values(path, inputs, names, lambda copied: Session(copied, optimised, threads))

    def annotate(self, path: str | Path, entries: Mapping[str, str]) -> None:
        """Into the model's metadata, in place of entries of the same names.

        Raises:
            InvalidInput: there is no such file.
            ExportError: it is no ONNX file.
            StoreError: it cannot be written.
        """
        onnx = engines.onnx()
        if not Path(path).is_file():
            raise InvalidInput(f"there is no file '{path}'; export the graph first")
        try:
            model = onnx.load(str(path))
        except Exception as error:
            raise ExportError(f"'{path}' is no ONNX file: {first_line(error)}") from error
        onnx.helper.set_model_props(model, {**{p.key: p.value for p in model.metadata_props}, **entries})
        with atomic_files(path) as target:
            target.write_bytes(model.SerializeToString())

    def unfused(self, path: str | Path) -> tuple[str, ...]:
        """Read from the graph that it makes of the file when all optimisations are on."""
        onnx = engines.onnx()
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "optimised.onnx"
            Session(path, optimised_path=target)
            graph = onnx.load(str(target)).graph
        integers = {t.name for t in graph.initializer if t.data_type != onnx.TensorProto.FLOAT}
        found: dict[str, None] = {}
        for node in graph.node:
            if node.op_type in _INTEGER or node.op_type in _MOVING or node.op_type.startswith("QLinear"):
                continue
            if node.op_type != "Clip" or not integers.intersection(node.input):
                found[_readable(node)] = None
        return tuple(found)


RUNTIMES.register(OnnxRuntime())
