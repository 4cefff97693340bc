"""Range setting: from observed values to a grid, by min-max, percentile or mean squared error.

All of them return short steps (:mod:`bitwright.numerics.steps`) and grids that contain 0.0 exactly, as padding and
ReLU need.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bitwright.errors import InvalidInput
from bitwright.numerics.affine import Affine, blocked, fake_quantize
from bitwright.numerics.steps import PER_OCTAVE, position_of, rounded_up, step_at, stride, tie_free
from bitwright.settings import RANGES

RowHarm = Callable[[Tensor], Tensor]
METHODS = RANGES

# Steps tried below the min-max step: at most 44 of them, sixteen in each octave, down to a factor of 6.7.
_OCTAVES_DOWN = 2.75
_TRIED_PER_OCTAVE = 16
_SPLITS = 9  # ways to share the clipping between the two ends
_BINS = 2048


def check_method(method: str) -> None:
    """Raise :class:`InvalidInput` for an unknown range method."""
    if method not in METHODS:
        raise InvalidInput(f"ranges must be one of {', '.join(METHODS)}, got '{method}'")


@dataclass(frozen=True)
class Observed:
    """What calibration keeps of one activation.

    Attributes:
        low: smallest value seen.
        high: largest value seen.
        sample: (n,) random values, at most about 260,000, in no order.
        count: number of values seen.
    """

    low: float
    high: float
    sample: Tensor
    count: int

    def histogram(self) -> tuple[Tensor, Tensor]:
        """Mean value and share of each non-empty bin, (bins,) each, float64; 0.0 keeps its own exact bin."""
        values = self.sample.double()
        width = max(self.high - self.low, 1e-30) / _BINS
        index = ((values - self.low) / width).long().clamp_(0, _BINS - 1)
        index[values == 0] = _BINS
        counts = torch.bincount(index, minlength=_BINS + 1).double()
        sums = torch.bincount(index, weights=values, minlength=_BINS + 1)
        kept = counts > 0
        return sums[kept] / counts[kept], counts[kept] / counts.sum()


def activation_affine(
    observed: Observed, low: int, high: int, symmetric: bool, method: str, percentile: float = 99.99
) -> Affine:
    """Choose the grid of an activation, one step for the whole tensor.

    Args:
        observed: from calibration.
        low: smallest integer.
        high: largest integer.
        symmetric: fix the zero point: 0 for signed grids, the middle for unsigned ones.
        method: ``"minmax"``: nothing observed is clipped; ``"percentile"``: the share outside
            ``percentile`` % is clipped at each end that has values; ``"mse"``: the step and zero point with the
            smallest mean squared error on the observed values.
        percentile: for ``"percentile"``, in percent.
    """
    check_method(method)
    bottom, top = min(observed.low, 0.0), max(observed.high, 0.0)
    if method == "percentile" and observed.sample.numel():
        share = torch.tensor([1 - percentile / 100, percentile / 100], dtype=torch.float64)
        ends = torch.quantile(observed.sample.double(), share)
        bottom, top = min(float(ends[0]), 0.0), max(float(ends[1]), 0.0)
    levels = high - low
    center = 0 if low < 0 else (high + 1) // 2
    if symmetric:
        reach = max(top / max(high - center, 1), -bottom / max(center - low, 1))
    else:
        reach = (top - bottom) / levels
    if reach <= 0:
        return Affine(torch.tensor(1.0), torch.tensor(float(center if symmetric else low)), low, high)
    start = rounded_up(position_of(torch.tensor(reach)), stride(low, high))
    if method != "mse" or levels > 1023:
        step = step_at(start)
        zero = center if symmetric else low + round(-bottom / float(step))
        return Affine(step, torch.tensor(float(min(max(zero, low), high))), low, high)
    return _smallest_error(observed, low, high, symmetric, center, int(start), bottom, top)


def _smallest_error(
    observed: Observed, low: int, high: int, symmetric: bool, center: int, start: int, bottom: float, top: float
) -> Affine:
    values, shares = observed.histogram()
    spacing = max(PER_OCTAVE // _TRIED_PER_OCTAVE, stride(low, high))
    steps = step_at(start - torch.arange(0, int(_OCTAVES_DOWN * PER_OCTAVE), spacing)).double()
    if symmetric:
        zeros = torch.full((len(steps), 1), float(center), dtype=torch.float64)
    else:
        # Levels that must be clipped at each step, shared between the two ends in _SPLITS ways.
        excess = ((top - bottom) / steps - (high - low)).clamp_min(0)
        split = torch.linspace(0, 1, _SPLITS, dtype=torch.float64)
        zeros = (low - bottom / steps)[:, None] - excess[:, None] * split
        zeros = zeros.round_().clamp_(low, high)
    grid_step = steps[:, None].expand_as(zeros).reshape(-1, 1)
    grid_zero = zeros.reshape(-1, 1)
    rounded = (values / grid_step).round_()
    rounded = torch.minimum(torch.maximum(rounded, low - grid_zero), high - grid_zero).mul_(grid_step)
    error = (rounded - values).square_() @ shares
    best = int(error.argmin())
    return Affine(grid_step[best, 0].float(), grid_zero[best, 0].float(), low, high)


def weight_affine(
    weight: Tensor,
    low: int,
    high: int,
    axis: int | None,
    group_size: int | None,
    method: str,
    percentile: float = 99.99,
    harm: RowHarm | None = None,
) -> Affine:
    """Choose the grids of a weight: symmetric, one step per tensor (``axis=None``), channel or group.

    Args:
        weight: (O, ...) for channel axis 0; any axis works.
        low: smallest integer, e.g. -8.
        high: largest integer, e.g. 7.
        axis: channel axis, or None for one step.
        group_size: for steps per group of input elements; the axis is then 0.
        method: as in :func:`activation_affine`; percentiles cut both ends of each row.
        harm: for ``"mse"``: what an error of the weight, in its shape, does to each channel, (channels,); None for
            the squared error of the weight itself. Not for groups.

    Returns:
        A grid whose ``scale`` broadcasts to ``weight`` (to its blocked view, if grouped).
    """
    check_method(method)
    rows, shape = _rows(weight.detach(), axis, group_size)
    if method == "percentile":
        bottom, top = _row_quantiles(rows, 1 - percentile / 100), _row_quantiles(rows, percentile / 100)
    else:
        bottom, top = rows.amin(dim=1), rows.amax(dim=1)
    # The grid has one more step below zero than above: a channel whose extreme is negative can use it.
    reach = torch.maximum(top.clamp_min(0) / max(high, 1), -bottom.clamp_max(0) / max(-low, 1))
    # A channel of zeros (a pruned filter) must not get a vanishing step: its bias is rounded to multiples of the step.
    largest = float(reach.max()) if float(reach.max()) > 0 else 1.0
    start = rounded_up(position_of(reach.clamp_min(largest * 2.0**-20)), stride(low, high))
    plain, start = step_at(start), tie_free(start, low, high)
    if method != "mse" or high > 511:
        step = step_at(start)
    else:
        step = _smallest_weight_error(weight.detach(), shape, low, high, start, group_size, harm)
    # Rows that lie on a grid already keep it.
    plain = plain.to(weight.device).reshape(shape)
    grid = Affine(plain, torch.zeros_like(plain), low, high, group_size)
    missed = fake_quantize(weight.detach(), grid).sub_(weight.detach())
    kept = (_rows(missed, axis, group_size)[0] == 0).all(1).reshape(shape)
    scale = torch.where(kept, plain, step.to(weight.device).reshape(shape))
    return Affine(scale, torch.zeros_like(scale), low, high, group_size)


def _row_quantiles(rows: Tensor, share: float) -> Tensor:
    """Quantile of each row, by sorting (torch.quantile refuses large tensors)."""
    position = round(share * (rows.shape[1] - 1))
    return rows.sort(dim=1).values[:, position]


def _rows(weight: Tensor, axis: int | None, group_size: int | None) -> tuple[Tensor, tuple[int, ...]]:
    if group_size is not None:
        view = blocked(weight, group_size)
        return view.flatten(0, 1), (view.shape[0], view.shape[1], 1)
    if axis is None:
        return weight.reshape(1, -1), (1,) * weight.dim()
    shape = tuple(weight.shape[axis] if i == axis else 1 for i in range(weight.dim()))
    return weight.movedim(axis, 0).flatten(1), shape


def _smallest_weight_error(
    weight: Tensor,
    shape: tuple[int, ...],
    low: int,
    high: int,
    start: Tensor,
    group_size: int | None,
    harm: RowHarm | None,
) -> Tensor:
    """(rows,) steps: an eighth of an octave at a time down from min-max, then closer around the best."""
    count = start.numel()

    def harms(step: Tensor) -> Tensor:
        zero = torch.zeros(shape, device=weight.device)
        error = fake_quantize(weight, Affine(step.to(weight.device).reshape(shape), zero, low, high, group_size))
        error.sub_(weight)
        if harm is not None and group_size is None:
            found = harm(error).double().cpu()
            return found.sum().expand(1) if count == 1 else found
        rows = _rows(error, _axis(shape), group_size)[0]
        return rows.square().sum(dim=1, dtype=torch.float64).cpu()

    start = start.cpu()
    best, least = start, harms(step_at(start))
    octaves = 2.5 if high <= 7 else 1.25
    eighth = PER_OCTAVE // 8
    for down in range(eighth, int(octaves * PER_OCTAVE) + 1, eighth):
        best, least = _better(best, least, tie_free(start - down, low, high), harms)
    finest = stride(low, high)
    for offset in (eighth // 2, eighth // 4):
        if offset < finest:
            break
        middle = best
        for position in (middle - offset, middle + offset):
            best, least = _better(best, least, tie_free(torch.minimum(position, start), low, high), harms)
    return step_at(best)


def _better(best: Tensor, least: Tensor, position: Tensor, harms: RowHarm) -> tuple[Tensor, Tensor]:
    found = harms(step_at(position))
    return torch.where(found < least, position, best), torch.minimum(found, least)


def _axis(shape: tuple[int, ...]) -> int | None:
    """The channel axis of a grid's shape: the one that is not 1."""
    return next((i for i, n in enumerate(shape) if n != 1), None)
