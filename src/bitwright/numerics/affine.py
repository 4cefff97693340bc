"""Affine quantization: a real t becomes the integer clamp(round(t / scale) + zero_point, low, high).

The arithmetic is the one that the ONNX operators QuantizeLinear and DequantizeLinear prescribe: a true division
(not a multiplication by the reciprocal, which rounds ties the other way now and then), rounding half to even, then
saturation. The simulation and the exported file therefore round alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Affine:
    """The grid of one tensor at one bit width.

    Attributes:
        scale: step size, a scalar tensor, or broadcastable to the tensor (blocked weights: to its blocked view).
        zero_point: the integer that stands for 0.0, same shape as ``scale``.
        low: smallest integer of the grid.
        high: largest integer of the grid.
        group_size: elements that share a scale along the flattened input dimension, None unless per group.
    """

    scale: Tensor
    zero_point: Tensor
    low: int
    high: int
    group_size: int | None = None

    @cached_property
    def bounds(self) -> tuple[Any, Any]:
        """Smallest and largest grid point in steps from zero: numbers for one zero point, else tensors."""
        if self.zero_point.numel() == 1:
            zero = int(self.zero_point)
            return self.low - zero, self.high - zero
        return self.low - self.zero_point, self.high - self.zero_point

    @cached_property
    def step(self) -> float:
        """The step as a number, where there is one only."""
        return float(self.scale)

    def to(self, device: torch.device) -> Affine:
        """The same grid on another device."""
        if self.scale.device == device:
            return self
        return Affine(self.scale.to(device), self.zero_point.to(device), self.low, self.high, self.group_size)


def blocked(tensor: Tensor, group_size: int) -> Tensor:
    """View a weight (O, ...) as (O, groups, group_size), padding the last group with zeros."""
    flat = tensor.flatten(1)
    missing = -flat.shape[1] % group_size
    if missing:
        flat = torch.nn.functional.pad(flat, (0, missing))
    return flat.reshape(flat.shape[0], -1, group_size)


def unblocked(tensor: Tensor, shape: torch.Size) -> Tensor:
    """Inverse of :func:`blocked`."""
    return tensor.flatten(1)[:, : shape[1:].numel()].reshape(shape)


def spread(steps: Tensor, group_size: int | None, shape: torch.Size) -> Tensor:
    """Steps, of a tensor, of its channels or of its groups, in a shape that broadcasts to the weight's."""
    if group_size is None:
        return steps
    return unblocked(steps.expand(blocked(torch.empty(shape, device="meta"), group_size).shape), shape)


def integers(tensor: Tensor, affine: Affine) -> Tensor:
    """The integers of the grid, as a float tensor in the shape of ``tensor``."""
    source = tensor if affine.group_size is None else blocked(tensor, affine.group_size)
    result = torch.div(source, affine.scale).round_().add_(affine.zero_point).clamp_(affine.low, affine.high)
    return result if affine.group_size is None else unblocked(result, tensor.shape)


def dequantized(values: Tensor, affine: Affine) -> Tensor:
    """(integers - zero_point) * scale."""
    source = values if affine.group_size is None else blocked(values, affine.group_size)
    result = (source - affine.zero_point) * affine.scale
    return result if affine.group_size is None else unblocked(result, values.shape)


def _rounded(tensor: Tensor, affine: Affine, out: Tensor | None = None) -> Tensor:
    source = tensor if affine.group_size is None else blocked(tensor, affine.group_size)
    result = torch.div(source, affine.scale, out=out if affine.group_size is None else None).round_()
    # The zero point is moved into the bounds, which saves two passes over the memory and changes no digit.
    result.clamp_(*affine.bounds).mul_(affine.scale)
    return result if affine.group_size is None else unblocked(result, tensor.shape)


def shortfall(tensor: Tensor, affine: Affine, out: Tensor) -> Tensor:
    """t - Q(t), the rounding error with its sign turned, in as few passes over the memory as there can be.

    Args:
        tensor: any float tensor.
        affine: the grid.
        out: memory for the result, in the shape of ``tensor``.
    """
    if affine.scale.numel() != 1 or affine.group_size is not None:
        return torch.sub(tensor, _rounded(tensor, affine), out=out)
    torch.div(tensor, affine.scale, out=out).round_().clamp_(*affine.bounds)
    return torch.sub(tensor, out, alpha=affine.step, out=out)


class _StraightThrough(torch.autograd.Function):
    """Rounding with the straight-through gradient: 1 inside the grid, 0 where it saturates."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, affine: Affine) -> Tensor:
        source = tensor if affine.group_size is None else blocked(tensor, affine.group_size)
        steps = torch.div(source, affine.scale).round_().add_(affine.zero_point)
        inside = (steps >= affine.low) & (steps <= affine.high)
        ctx.save_for_backward(inside if affine.group_size is None else unblocked(inside, tensor.shape))
        return _rounded(tensor, affine)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        (inside,) = ctx.saved_tensors
        return gradients[0] * inside, None


def fake_quantize(tensor: Tensor, affine: Affine, out: Tensor | None = None) -> Tensor:
    """Round a tensor to its grid and return real numbers; differentiable (straight-through estimator).

    Args:
        tensor: any float tensor.
        affine: the grid; ``scale`` must broadcast to ``tensor``.
        out: memory for the result, in the shape of ``tensor``; without gradients and groups only.

    Returns:
        A tensor of the same shape and dtype: a new one, or ``out``.
    """
    if torch.is_grad_enabled() and tensor.requires_grad:
        return _StraightThrough.apply(tensor, affine)  # type: ignore[no-any-return, no-untyped-call]
    return _rounded(tensor, affine, out)


def straight_through(rounded: Tensor, tensor: Tensor) -> Tensor:
    """The values of ``rounded``, to the last bit, with the gradient of ``tensor``, where one is wanted."""
    if torch.is_grad_enabled() and tensor.requires_grad:
        return rounded.detach() + (tensor - tensor.detach())
    return rounded
