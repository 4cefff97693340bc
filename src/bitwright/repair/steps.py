"""Steps and sequential rounding of weights by what they do to the output of their layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bitwright.errors import InvalidData
from bitwright.graph.layers import Layer
from bitwright.numerics.affine import Affine, blocked, unblocked
from bitwright.numerics.steps import PER_OCTAVE, position_of, rounded_up, step_at, stride, tie_free

DAMPING = 0.01  # of the mean diagonal, added to the Gram matrix before it is inverted
ROUNDING = 1e-6  # of a squared mean: what is lost of a variance in float32
_BLOCK = 32  # columns whose feedback reaches the rest in one product
_ELEMENTS = 1 << 22  # of candidate weights held at once


def gram_of(rows: Tensor, centered: bool) -> Tensor:
    """(G, K, K) second moments of (G, P, K) input rows; about their mean if a bias will take up mean errors."""
    count = rows.shape[1]
    gram = torch.bmm(rows.transpose(1, 2), rows) / count
    if centered:
        gram = about_the_mean(gram, rows.mean(1))
    return gram


def about_the_mean(gram: Tensor, mean: Tensor) -> Tensor:
    """(G, K, K) second moments of (G, K) means taken about them; no variance is below its rounding error."""
    found = gram - mean[:, :, None] * mean[:, None, :]
    variances = found.diagonal(dim1=1, dim2=2)
    variances.copy_(variances.maximum(ROUNDING * mean.square()))
    return found


def cholesky(gram: Tensor, damping: float) -> Tensor:
    """(G, K, K) lower Cholesky factor of second moments with a share of their mean diagonal added to the diagonal.

    More is added where rounding errors keep them from being positive definite, as where inputs hardly vary.

    Raises:
        InvalidData: moments that are not finite.
    """
    least = (damping * gram.diagonal(dim1=1, dim2=2).mean(1)).clamp_min(1e-12)
    if not bool(torch.isfinite(least).all()):
        raise InvalidData("the inputs of a layer are not finite; check the calibration data and the weights")
    while True:
        factor: Tensor
        factor, failed = torch.linalg.cholesky_ex(gram + torch.diag_embed(least[:, None].expand(gram.shape[:2])))
        if not bool(failed.any()):
            return factor
        least = least.where(failed == 0, 10 * least)


@dataclass(frozen=True)
class Feedback:
    """How the error of each column is made good in those still to come, from the second moments H of the inputs.

    Attributes:
        order: (G, K) columns, those with the largest inputs first.
        factor: (G, K, K) upper Cholesky factor of the inverse of H, damped and in that order.
    """

    order: Tensor
    factor: Tensor

    @staticmethod
    def of(gram: Tensor, damping: float = DAMPING) -> Feedback:
        """From (G, K, K) second moments; ``damping`` is a share of their mean diagonal."""
        order = gram.diagonal(dim1=1, dim2=2).argsort(dim=1, descending=True)
        ordered = gram.gather(1, order[:, :, None].expand_as(gram)).gather(2, order[:, None, :].expand_as(gram))
        inverse = torch.cholesky_inverse(cholesky(ordered.double(), damping))
        return Feedback(order, torch.linalg.cholesky(inverse, upper=True).to(gram.dtype))


def sequential_rounding(matrix: Tensor, feedback: Feedback, step: Tensor, low: int, high: int) -> Tensor:
    """Round column after column, each error being made good in the columns that are still to come.

    GPTQ (Frantar et al., ICLR 2023), i.e. optimal brain quantization in one fixed order for all rows; columns with the
    largest inputs come first. Minimizes (w - q) H (w - q)^T approximately.

    Args:
        matrix: (G, R, K) weights.
        feedback: of the (G, K, K) second moments H.
        step: broadcastable to ``matrix``.
        low: smallest integer.
        high: largest integer.

    Returns:
        (G, R, K) integers as floats; they can lie more than one step away from the nearest rounding.
    """
    groups, rows, columns = matrix.shape
    factor = feedback.factor
    index = feedback.order[:, None, :].expand(groups, rows, columns)
    left = matrix.gather(2, index)
    steps = step.expand_as(matrix).gather(2, index)
    result = torch.empty_like(left)
    for start in range(0, columns, _BLOCK):
        stop = min(start + _BLOCK, columns)
        errors = left.new_empty(groups, rows, stop - start)
        for k in range(start, stop):
            rounded = (left[:, :, k] / steps[:, :, k]).round_().clamp_(low, high)
            result[:, :, k] = rounded
            error = (left[:, :, k] - rounded * steps[:, :, k]) / factor[:, k, k, None]
            left[:, :, k + 1 : stop] -= error[:, :, None] * factor[:, k, None, k + 1 : stop]
            errors[:, :, k - start] = error
        left[:, :, stop:] -= torch.bmm(errors, factor[:, start:stop, stop:])
    return torch.empty_like(result).scatter_(2, index, result)


def output_errors(error: Tensor, gram: Tensor) -> Tensor:
    """(G, R) mean squared output error that a (G, R, K) weight error makes."""
    return (torch.bmm(error, gram) * error).sum(2)


def fitted_steps(
    matrix: Tensor, gram: Tensor, low: int, high: int, shared: tuple[int, ...] = (), feedback: Feedback | None = None
) -> Tensor:
    """(G, R, 1) steps with the smallest output error, searched among short steps below the min-max step.

    Args:
        matrix: (G, R, K) weights.
        gram: (G, K, K) second moments of the inputs.
        low: smallest integer.
        high: largest integer.
        shared: dimensions of (G, R) along which all rows have one step.
        feedback: judge steps by sequential rounding with it; None for nearest rounding.
    """
    reach = torch.maximum(matrix.amax(2).clamp_min(0) / max(high, 1), -matrix.amin(2).clamp_max(0) / max(-low, 1))
    if shared:
        reach = reach.amax(shared, keepdim=True).expand_as(reach)
    largest = float(reach.max()) if float(reach.max()) > 0 else 1.0
    finest = stride(low, high)
    start = rounded_up(position_of(reach.clamp_min(largest * 2.0**-20)), finest)
    octaves = 2.0 if high <= 7 else 1.0
    spacing = max(PER_OCTAVE // 8, finest)
    downs = torch.arange(0, int(octaves * PER_OCTAVE) + 1, spacing, device=matrix.device)
    best, least = start, torch.full_like(reach, torch.inf)
    at_once = max(1, _ELEMENTS // matrix.numel())
    for part in [downs[i : i + at_once] for i in range(0, len(downs), at_once)]:
        candidates = tie_free(start[None] - part[:, None, None], low, high)  # (C, G, R)
        steps = step_at(candidates).to(matrix.dtype)
        count, groups, rows = steps.shape
        many = matrix[:, None].expand(groups, count, *matrix.shape[1:]).reshape(groups, count * rows, -1)
        step = steps.transpose(0, 1).reshape(groups, count * rows, 1)
        if feedback is not None:
            rounded = sequential_rounding(many, feedback, step, low, high)
        else:
            rounded = (many / step).round_().clamp_(low, high)
        errors = output_errors(rounded * step - many, gram).reshape(groups, count, rows).transpose(0, 1)
        if shared:
            errors = errors.sum(tuple(d + 1 for d in shared), keepdim=True).expand_as(errors)
        found, which = errors.min(0)
        chosen = candidates.gather(0, which[None])[0]
        best, least = torch.where(found < least, chosen, best), torch.minimum(found, least)
    return step_at(best)[:, :, None]


def full_step(layer: Layer, affine: Affine) -> Tensor:
    """(G, R, K) the step of each weight, in the order of :meth:`Layer.matrix`."""
    weight = layer.weight.weight
    scale = affine.scale.to(weight.device)
    if affine.group_size is not None:
        view = blocked(weight, affine.group_size)
        scale = unblocked(scale.expand_as(view), weight.shape)
    return layer.matrix(scale.expand_as(weight).contiguous())


def fitted_affine(
    layer: Layer, bits: int, gram: Tensor, *, matrix: Tensor | None = None, feedback: Feedback | None = None
) -> Affine:
    """The grid of a layer's weight with the smallest output error, whatever its granularity.

    Per group the errors of a group are judged on their own (the diagonal blocks of the Gram matrix).

    Args:
        layer: the layer.
        bits: width.
        gram: (G, K, K) second moments of the inputs.
        matrix: (G, R, K) weights to fit instead of the layer's own.
        feedback: judge by sequential rounding with it; None for nearest rounding.
    """
    quantizer = layer.weight
    scheme = quantizer.site.scheme
    low, high = scheme.integer_range(bits)
    if matrix is None:
        matrix = layer.matrix(quantizer.weight.detach()).float()
    present = quantizer.grid(bits)
    if scheme.granularity == "group":
        if scheme.group_size is None or layer.transposed or layer.groups > 1:
            return present
        size, columns = scheme.group_size, matrix.shape[2]
        wide = blocked(matrix[0], size)  # (R, groups of inputs, size)
        missing = wide.shape[1] * size - columns
        padded = torch.nn.functional.pad(gram[0], (0, missing, 0, missing))
        blocks = torch.stack([padded[i : i + size, i : i + size] for i in range(0, columns + missing, size)])
        inside = None if feedback is None else Feedback.of(blocks)
        step = fitted_steps(wide.transpose(0, 1).contiguous(), blocks, low, high, (), inside)
        scale = step.transpose(0, 1).reshape(present.scale.shape)
    elif scheme.granularity == "tensor":
        scale = fitted_steps(matrix, gram, low, high, (0, 1), feedback)[0, 0, 0].reshape(present.scale.shape)
    else:
        shared = (0,) if layer.transposed and layer.groups > 1 else ()
        scale = fitted_steps(matrix, gram, low, high, shared, feedback)
        scale = (scale[0] if shared else scale).reshape(present.scale.shape)
    return Affine(scale, torch.zeros_like(scale), low, high, present.group_size)
