"""Latency: an exported file against the float model, in the same runtime, session options and run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bitwright.errors import InvalidInput
from bitwright.runtimes.runtime import RUNTIMES, Session
from bitwright.settings import DEFAULTS
from bitwright.values import Latency

_WARM_UP = 3
_FEWEST_PAIRS = 9


def latency(
    path: str | Path,
    float_path: str | Path,
    batches: Sequence[int] = (1, 32),
    threads: int = 1,
    seconds: float = 1.0,
    inputs: Sequence[Any] | None = None,
    runtime: str = DEFAULTS.runtime,
) -> list[Latency]:
    """Time a file against the float file of the same graph.

    Both are loaded with the same options and run in turns, so that whatever else the machine does meets both. The times
    are medians, and the ratio is theirs.

    Args:
        path: of the quantized file.
        float_path: of the float file: the same graph exported with ``policy=bw.FLOAT``.
        batches: batch sizes.
        threads: used inside an operation.
        seconds: spent on each batch size, at least; at least nine pairs are run.
        inputs: one sample for each input of the model, with its batch dimension of 1; None for random ones.
        runtime: that both were exported for.

    Returns:
        One value for each batch size, in their order.

    Raises:
        MissingExtra: the runtime is not installed.
        InvalidInput: a file is missing, or a batch size is below 1.
        ExportError: the runtime cannot load a file.
    """
    for batch in batches:
        if batch < 1:
            raise InvalidInput(f"batches must be at least 1, got {batch}")
    chosen = RUNTIMES[runtime]
    floated = chosen.unfused(path)
    quantized, plain = (chosen.load(p, threads=threads) for p in (path, float_path))
    found = []
    for batch in batches:
        feeds = quantized.random_inputs(batch) if inputs is None else [_repeated(value, batch) for value in inputs]
        pairs = _pairs(quantized, plain, feeds, seconds)
        found.append(
            Latency(
                batch,
                median(pair[0] for pair in pairs),
                median(pair[1] for pair in pairs),
                floated,
            )
        )
    return found


def _repeated(value: Any, batch: int) -> Any:
    return value[:1].repeat(batch, *[1] * (value.dim() - 1))


def _pairs(quantized: Session, plain: Session, feeds: list[Any], seconds: float) -> list[tuple[float, float]]:
    for _ in range(_WARM_UP):
        quantized(*feeds)
        plain(*feeds)
    pairs: list[tuple[float, float]] = []
    end = time.perf_counter() + seconds
    while len(pairs) < _FEWEST_PAIRS or time.perf_counter() < end:
        times = []
        # The order changes from pair to pair, so that neither always runs on the other's warm cache.
        order = (quantized, plain) if len(pairs) % 2 == 0 else (plain, quantized)
        for session in order:
            start = time.perf_counter()
            session(*feeds)
            times.append(time.perf_counter() - start)
        pairs.append((times[0], times[1]) if order[0] is quantized else (times[1], times[0]))
    return pairs
