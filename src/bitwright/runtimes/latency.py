"""Latency: the exported file against the float model in the same runtime, in turn, within one run."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bitwright.runtimes import engines, onnxruntime
from bitwright.values import Latency

# Operations that do arithmetic: worth naming when they are left in float.
_ARITHMETIC = {
    "Conv", "FusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "Add", "Mul",
    "GlobalAveragePool", "AveragePool", "Softmax", "LayerNormalization", "Sigmoid", "LeakyRelu",
}  # fmt: skip


def latency(
    path: str | Path,
    float_path: str | Path,
    batch_sizes: Sequence[int] = (1, 32),
    *,
    threads: int = 1,
    seconds: float = 1.5,
    seed: int = 0,
) -> list[Latency]:
    """Time both files in turn, so that a change of the machine's speed meets both.

    Args:
        path: the quantized file.
        float_path: the float file of the same graph.
        batch_sizes: one result for each.
        threads: threads of one run, the same for both.
        seconds: to spend on each batch size, about.
        seed: of the random inputs.

    Returns:
        For each batch size the median times, the median of the ratios pair by pair, and the operations that stayed in
        float.
    """
    unfused = unfused_operations(path)
    both = [onnxruntime.session(file, True, threads) for file in (path, float_path)]
    return [_paired(both, batch, seconds, seed, unfused) for batch in batch_sizes]


def _paired(both: list[Any], batch: int, seconds: float, seed: int, unfused: tuple[str, ...]) -> Latency:
    inputs = _inputs(both[1], batch, seed)
    times: list[list[float]] = [[], []]
    for loaded in both:
        onnxruntime.run(loaded, inputs)
    stop = time.perf_counter() + seconds
    while len(times[0]) < 5 or (time.perf_counter() < stop and len(times[0]) < 500):
        for kept, loaded in zip(times, both, strict=True):
            start = time.perf_counter()
            onnxruntime.run(loaded, inputs)
            kept.append(time.perf_counter() - start)
    ratio = statistics.median(q / f for q, f in zip(*times, strict=True))
    return Latency(batch, statistics.median(times[0]), statistics.median(times[1]), ratio, unfused)


def _inputs(loaded: Any, batch: int, seed: int) -> tuple[Any, ...]:
    random = np.random.default_rng(seed)
    made = []
    for entry in loaded.get_inputs():
        shape = [batch if i == 0 or not isinstance(n, int) else n for i, n in enumerate(entry.shape)]
        if "int" in entry.type:
            made.append(np.zeros(shape, np.int64 if "64" in entry.type else np.int32))
        else:
            made.append(random.standard_normal(shape).astype(np.float32))
    return tuple(made)


def unfused_operations(path: str | Path) -> tuple[str, ...]:
    """Operations that the runtime computes in float although the file is quantized, e.g. ``Conv layer1.0.conv1``."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "optimised.onnx"
        onnxruntime.session(path, True, 1, target)
        model = engines.onnx().load(str(target))
    return tuple(
        f"{node.op_type} {node.name}" for node in model.graph.node if node.op_type in _ARITHMETIC and node.name
    )
