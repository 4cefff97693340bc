"""ExecuTorch on the CPU: programs whose layers run in XNNPACK's kernels, and the rest in ExecuTorch's own."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from importlib import metadata as packages
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bitwright.errors import ExportError, InvalidData, InvalidInput, first_line
from bitwright.files import atomic_files
from bitwright.graph.graph import Graph
from bitwright.runtimes import engines
from bitwright.runtimes.onnxruntime import as_array
from bitwright.runtimes.program import METADATA, annotated, lowered
from bitwright.runtimes.runtime import RUNTIMES, Array, ExportResult, Runtime, random_arrays
from bitwright.runtimes.xnnpack import FLOAT, INT8, stored_type
from bitwright.values import FLOAT as FLOAT_POLICY
from bitwright.values import Site

BATCH = 32
"""Samples that a program runs at once if nothing else is asked for: it plans memory for the most there can be."""
_TYPES = {3: np.int32, 4: np.int64, 11: np.bool_}
"""ExecuTorch's numbers of types beside float32."""
_float_bytes: dict[str, int] = {}
"""Hash of a graph -> bytes of its float program."""


class _Threads:
    """The threads that ExecuTorch computes in, the same for the whole process: programs hold on to them."""

    changes = 0

    @classmethod
    def set(cls, number: int) -> int:
        """Have this many; returns how often their number has changed: programs loaded before are to be loaded again."""
        library = engines.executorch_library()
        with engines.silent():
            if library._threadpool_get_thread_count() != number:
                library._unsafe_reset_threadpool(number)
                cls.changes += 1
        return cls.changes


class Session:
    """A program that is loaded and can be run; arguments and errors as for ONNX Runtime's.

    It has one way to run: what it computes with was settled when it was written. Batches above the largest that it has
    memory for are run in parts.
    """

    def __init__(self, path: str | Path, threads: int = 1) -> None:
        if not Path(path).is_file():
            raise InvalidInput(f"there is no file '{path}'; export the graph first")
        if threads < 1:
            raise InvalidInput(f"threads must be at least 1, got {threads}")
        self._path, self._threads, self._loaded_at = path, threads, -1
        self._ready()
        self.metadata: Mapping[str, str] = self._read_metadata()
        about = self._method.method_meta()
        infos = [about.input_tensor_meta(i) for i in range(about.num_inputs())]
        self._inputs = [(list(info.sizes()), _TYPES.get(info.dtype(), np.float32)) for info in infos]

    def _ready(self) -> None:
        """Load the program if that is to be done, or done again."""
        changes = _Threads.set(self._threads)
        if changes == self._loaded_at:
            return
        library = engines.executorch_library()
        try:
            with engines.silent():
                self._program = library._load_program(str(self._path))
                self._method = self._program.load_method("forward")
        except Exception as error:
            raise ExportError(f"ExecuTorch cannot load '{self._path}': {first_line(error)}") from error
        self._loaded_at = changes

    def _read_metadata(self) -> dict[str, str]:
        names = [self._program.get_method_name(i) for i in range(self._program.num_methods())]
        if METADATA not in names:
            return {}
        with engines.silent():
            found: dict[str, str] = json.loads(self._program.load_method(METADATA)([])[0])
        return found

    def __call__(self, *inputs: Any) -> list[Array]:
        """Run the program; inputs in the order of the model's."""
        if len(inputs) != len(self._inputs):
            raise InvalidInput(f"the file takes {len(self._inputs)} inputs, got {len(inputs)}")
        arrays = [np.ascontiguousarray(as_array(value)) for value in inputs]
        for array, (sizes, kind) in zip(arrays, self._inputs, strict=True):
            fits = array.ndim == len(sizes) and all(a <= b for a, b in zip(array.shape[1:], sizes[1:], strict=True))
            if not fits or array.dtype != kind:
                raise InvalidData(
                    f"ExecuTorch cannot run the file on these inputs: it takes {np.dtype(kind)} of at most "
                    f"{tuple(sizes[1:])} for each sample, got {array.dtype} of {array.shape[1:]}"
                )
        self._ready()
        most = self._inputs[0][0][0]
        starts = range(0, max(1, len(arrays[0])), most)
        parts = [self._run([array[start : start + most] for array in arrays]) for start in starts]
        return parts[0] if len(parts) == 1 else [np.concatenate(values) for values in zip(*parts, strict=True)]

    def _run(self, arrays: list[Array]) -> list[Array]:
        try:
            found = self._method([torch.from_numpy(array) for array in arrays])
        except Exception as error:
            raise InvalidData(f"ExecuTorch cannot run the file on these inputs: {first_line(error)}") from error
        return [value.numpy() if isinstance(value, Tensor) else np.asarray(value) for value in found]

    def random_inputs(self, batch: int, seed: int = 0) -> list[Array]:
        """Inputs of the right shapes and types: normal values; zeros where the model takes integers."""
        return random_arrays((([None, *sizes[1:]], kind) for sizes, kind in self._inputs), batch, seed)


class ExecuTorch(Runtime):
    """ExecuTorch with XNNPACK on the CPU."""

    name, order = "executorch", 30
    does = "ExecuTorch with XNNPACK on the CPU."
    called = "ExecuTorch"
    suffix = ".pte"
    packages = ("executorch",)
    extra = "xnnpack"
    placement = "xnnpack"
    optimises = False

    def version(self) -> str:
        """Name and version, e.g. ``ExecuTorch 1.5.1``.

        Raises:
            MissingExtra: it is not installed.
        """
        engines.executorch_library()
        return f"{self.called} {packages.version('executorch')}"

    def export(self, graph: Graph, path: Path, batch: int = BATCH) -> ExportResult:
        """Write a program.

        Args:
            graph: calibrated.
            path: of the file.
            batch: the most samples that it runs at once.

        Raises:
            InvalidInput: a batch below 1.
            MissingExtra: ExecuTorch is not installed.
            ExportError: an operation that it has no kernel for.
        """
        if batch < 1:
            raise InvalidInput(f"batch must be at least 1, got {batch}")
        written = lowered(graph, batch)
        path.write_bytes(written.data)
        if not graph.policy.bits:
            _float_bytes[graph.graph_hash] = len(written.data)
        elif graph.graph_hash not in _float_bytes:
            with graph.applied(FLOAT_POLICY):
                _float_bytes[graph.graph_hash] = len(lowered(graph, batch).data)
        return ExportResult(path, len(written.data), _float_bytes[graph.graph_hash], written.notes, written.scales)

    def load(self, path: str | Path, optimised: bool = True, threads: int = 1) -> Session:
        """Load a file; there is one way to run it."""
        return Session(path, threads)

    def weight_bytes(self, site: Site, bits: int) -> float:
        """A byte to 8 bits, half of one to 4 bits in linear layers, float32 above; 4 bytes for each step."""
        stored = stored_type(site, bits)
        if stored == FLOAT:
            return 4 * site.numel
        rows = site.numel if stored == INT8 else site.shape[0] * math.ceil(site.numel / site.shape[0] / 2)
        return rows + 4 * site.scales

    def annotate(self, path: str | Path, entries: Mapping[str, str]) -> None:
        """Into what the program's method ``bitwright`` gives, in place of entries of the same names.

        Raises:
            InvalidInput: there is no such file.
            ExportError: it is no program that Bitwright wrote.
            StoreError: it cannot be written.
        """
        if not Path(path).is_file():
            raise InvalidInput(f"there is no file '{path}'; export the graph first")
        data = annotated(Path(path).read_bytes(), entries)
        with atomic_files(path) as target:
            target.write_bytes(data)

    def unfused(self, path: str | Path) -> tuple[str, ...]:
        """As noted when the file was written."""
        return tuple(json.loads(Session(path).metadata.get("bitwright.unfused", "[]")))


RUNTIMES.register(ExecuTorch())
