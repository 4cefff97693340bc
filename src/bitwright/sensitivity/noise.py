"""Noise of each site at each width: measured on calibration values, or the uniform model."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bitwright.errors import InvalidInput, nearest
from bitwright.graph.graph import Graph
from bitwright.numerics.error import uniform_noise
from bitwright.quantizers.base import Quantizer
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


def values_at(quantizer: Quantizer) -> Tensor:
    """The weight, or the calibration's sample of the activation.

    Raises:
        InvalidInput: the graph is not calibrated.
    """
    if quantizer.site.kind == "weight":
        return quantizer.weight.detach()
    if quantizer.observed is None:
        raise InvalidInput(f"site '{quantizer.site.name}' has no range yet; call bw.calibrate(graph, batches) first")
    return quantizer.observed.sample


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
    for quantizer in graph.quantizers.values():
        row = []
        values = values_at(quantizer)
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
