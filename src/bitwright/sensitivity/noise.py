"""Noise of each site at each width: measured on calibration values, or the uniform model."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from bitwright.errors import InvalidInput, nearest
from bitwright.graph.graph import Graph
from bitwright.numerics.error import uniform_noise
from bitwright.values import check_bits

Array = npt.NDArray[np.float64]
MODELS = ("projected", "measured", "uniform")


def checked_widths(bits: Sequence[int]) -> tuple[int, ...]:
    """Widths in ascending order, each once.

    Raises:
        InvalidPolicy: a width outside 2 to 16.
    """
    if not bits:
        raise InvalidInput("bits must name at least one width, e.g. bits=(2, 3, 4, 6, 8)")
    return tuple(sorted({check_bits(b, "sensitivity") for b in bits}))


def check_noise(model: str) -> None:
    """Raise :class:`InvalidInput` for an unknown noise model."""
    if model not in MODELS:
        raise InvalidInput(f"noise must be one of {', '.join(MODELS)}, got '{model}'{nearest(model, MODELS)}")


def noise_of_sites(graph: Graph, bits: Sequence[int], model: str = "measured") -> Array:
    """(S, B) mean squared rounding error per element of each site at each width.

    Args:
        graph: calibrated.
        bits: widths.
        model: ``"measured"``: mean((Q(t) - t)^2) over the weight, or over the calibration's sample of the activation;
            ``"uniform"``: step^2 / 12 (FIT paper, section 3).

    Raises:
        InvalidInput: unknown model, or a graph that is not calibrated.
    """
    check_noise(model)
    rows = []
    for name, quantizer in graph.quantizers.items():
        row = []
        if quantizer.site.kind == "weight":
            values = quantizer.weight.detach()
        elif quantizer.observed is not None:
            values = quantizer.observed.sample
        else:
            raise InvalidInput(f"site '{name}' has no range yet; call bw.calibrate(graph, batches) first")
        for width in bits:
            if model == "uniform":
                row.append(uniform_noise(quantizer.grid(width)))
            else:
                change = quantizer.rounded(width, values) - values
                row.append(float(change.square_().mean(dtype=torch.float64)))
        rows.append(row)
    noise = np.asarray(rows, dtype=np.float64)
    assert math.isfinite(float(noise.sum()))
    return noise
