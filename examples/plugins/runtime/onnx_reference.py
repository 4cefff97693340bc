"""A runtime: the reference evaluator of the onnx package, which runs each operation as the standard defines it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from bitwright.graph.graph import Graph
from bitwright.runtimes import RUNTIMES, ExportResult, Runtime
from bitwright.values import Site


class _Session:
    def __init__(self, path: str | Path) -> None:
        import onnx
        from onnx.reference import ReferenceEvaluator

        model = onnx.load(str(path))
        self.metadata = {entry.key: entry.value for entry in model.metadata_props}
        self._inputs = model.graph.input
        self._evaluator = ReferenceEvaluator(model)

    def __call__(self, *inputs: Any) -> list[Any]:
        arrays = [v.detach().cpu().numpy() if isinstance(v, torch.Tensor) else np.asarray(v) for v in inputs]
        return self._evaluator.run(None, dict(zip([i.name for i in self._inputs], arrays, strict=True)))

    def random_inputs(self, batch: int, seed: int = 0) -> list[Any]:
        shapes = [[d.dim_value or batch for d in i.type.tensor_type.shape.dim] for i in self._inputs]
        return [np.random.default_rng(seed).standard_normal(shape, dtype=np.float32) for shape in shapes]


class OnnxReference(Runtime):
    """Slow, and the same on every machine: for looking into a file, not for serving it."""

    name, does, called = "onnx-reference", "The reference evaluator of the onnx package.", "the ONNX reference"
    suffix, packages = ".onnx", ("onnx", "onnxscript")

    def version(self) -> str:
        """Name and version."""
        import onnx

        return f"{self.called} {onnx.__version__}"

    def export(self, graph: Graph, path: Path) -> ExportResult:
        """The file that ONNX Runtime gets, without 4-bit types."""
        return RUNTIMES["onnxruntime"].export(graph, path, storage="int8")  # type: ignore[call-arg]

    def load(self, path: str | Path, optimised: bool = True, threads: int = 1) -> _Session:
        """It optimises nothing and has one thread."""
        return _Session(path)

    def weight_bytes(self, site: Site, bits: int) -> float:
        """A byte for each weight to 8 bits, two above; a float scale and a zero point."""
        size = 1 if bits <= 8 else 2
        return site.numel * size + site.scales * (4 + size)


ONNX_REFERENCE = OnnxReference()
