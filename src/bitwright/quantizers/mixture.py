"""A mixture of widths: a site of a supernet, from which a policy is searched by gradients.

GMPQ (Wang et al., ICCV 2021) and its forerunners put sum_b softmax(alpha)_b Q_b(t) at every site: one shared weight and
one convolution, whatever the number of widths. Here the widths are made one after the other from blocks of values that
fit into the processor's cache, and made again where gradients are asked for, so nothing is kept for any of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bitwright.errors import InvalidInput
from bitwright.numerics.affine import Affine, blocked, fake_quantize, spread, unblocked
from bitwright.numerics.ranges import Observed, RowHarm
from bitwright.quantizers.base import Quantizer

BLOCK = 1 << 16
"""Values that are rounded to all widths before the next ones: as many as stay in a processor's second cache."""


class Mixture(Quantizer):
    """What another quantizer makes of a tensor at several widths, weighted by the softmax of numbers that are learned.

    A weight is learned along with them: what is added to it stands here, the float weight stays what it is. The grids
    are those that the other quantizer has when the first tensor passes.

    Args:
        of: the quantizer that stands at the site; it takes grids, and its tensors have one each.
        widths: at least two, ascending.

    Attributes:
        alpha: (widths,) logarithms of the shares, up to a constant.
        moves: what is added to the weight, in steps (the geometric mean of the widths' steps), in the weight's shape;
            None at an activation.

    Raises:
        InvalidInput: fewer than two widths, or a quantizer that makes a grid for each tensor.
    """

    def __init__(self, of: Quantizer, widths: tuple[int, ...]) -> None:
        super().__init__(of.site)
        if len(set(widths)) < 2 or list(widths) != sorted(set(widths)):
            raise InvalidInput(f"widths must be at least two, ascending, got {widths} for site '{of.site.name}'")
        if of.dynamic:
            raise InvalidInput(
                f"the {type(of).__name__} at site '{of.site.name}' makes a grid for each tensor, and widths cannot be "
                "mixed there; put a uniform quantizer there"
            )
        self.of, self.widths = of, widths
        self.alpha = nn.Parameter(torch.zeros(len(widths)))
        self.moves = None if of.site.kind == "activation" else nn.Parameter(torch.zeros_like(of.weight))
        self._grids: tuple[Affine, ...] = ()

    @property
    def shares(self) -> Tensor:
        """(widths,) shares of the widths, with the gradient of ``alpha``."""
        return self.alpha.softmax(0)

    @property
    def expected_bits(self) -> float | Tensor | None:
        """The mean of the widths under their shares, with its gradient; None in float."""
        if self.bits is None:
            return None
        return (self.shares * torch.tensor(self.widths, dtype=self.alpha.dtype, device=self.alpha.device)).sum()

    @property
    def grids(self) -> tuple[Affine, ...]:
        """The grid of each width."""
        device = self.alpha.device
        if not self._grids or self._grids[0].scale.device != device:
            self._grids = tuple(self.of.own_grid(width).to(device) for width in self.widths)
        return self._grids

    def quantize(self, tensor: Tensor, bits: int) -> Tensor:
        """The mixture, whatever the width, with straight-through gradients of each width."""
        if self.moves is not None:
            tensor = tensor + self.moves * self._step()
        shares = self.shares.to(tensor.dtype)
        if not torch.is_grad_enabled():
            return _mixed(tensor, shares, self.grids)
        found: Tensor = _Mixed.apply(tensor, shares, self.grids)  # type: ignore[no-untyped-call]
        return found

    def _step(self) -> Tensor:
        """The geometric mean of the widths' steps, in a shape that broadcasts to the weight's."""
        step = torch.stack([grid.scale for grid in self.grids]).log().mean(0).exp()
        return spread(step, self.grids[0].group_size, self.of.weight.shape)

    def grid(self, bits: int) -> Affine:
        """The grid of one width."""
        return self.of.grid(bits)

    def integers(self, bits: int, tensor: Tensor | None = None) -> Tensor:
        """The integers that the other quantizer has at one width."""
        return self.of.integers(bits, tensor)

    @property
    def calibrated(self) -> bool:
        """Whether grids can be made."""
        return self.of.calibrated

    def check_range(self, bits: int) -> None:
        """Raise :class:`InvalidInput` if there is nothing from which the grids can be made."""
        for width in (bits, *self.widths):
            self.of.check_range(width)

    @property
    def weight(self) -> Tensor:
        """The float weight."""
        return self.of.weight

    def hold(self, weight: Tensor) -> None:
        """Take another tensor for the float weight."""
        self.of.hold(weight)
        self.reset()

    def observe(self, seen: Observed | RowHarm | None) -> None:
        """Take over what calibration saw."""
        self.of.observe(seen)
        self.reset()

    def set_ranges(self, method: str, percentile: float = 99.99) -> None:
        """Choose how ranges are set from now on."""
        self.of.set_ranges(method, percentile)
        self.reset()

    def refit(self) -> None:
        """Set ranges anew by the method in use."""
        self.of.refit()
        self.reset()

    def reset(self) -> None:
        """Forget the grids."""
        self.of.reset()
        self._grids = ()

    def state(self, bits: Iterable[int] = ()) -> dict[str, Any]:
        """What the other quantizer has at these and at the mixed widths, with what is learned here."""
        own = {name: each.detach().clone() for name, each in self.named_parameters(recurse=False)}
        return {**self.of.state({*bits, *self.widths}), **own}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state` gave."""
        self.of.load(state)
        self.reset()
        with torch.no_grad():
            for name, each in self.named_parameters(recurse=False):
                each.copy_(state[name])


class _Mixed(torch.autograd.Function):
    """The mixture; what comes of the single widths is made again for the gradients.

    With shares a_b, the gradient g that comes in, and Q_b'(t) = 1 inside the grid of width b, else 0: g sum_b a_b Q_b'
    for the tensor, and <g, Q_b(t)> for the share of b. Where those gradients are to be differentiated once more
    (attribution is made of gradients), they are written with operations that autograd follows.
    """

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, shares: Tensor, grids: tuple[Affine, ...]) -> Tensor:
        ctx.save_for_backward(tensor, shares)
        ctx.grids = grids
        return _mixed(tensor, shares, grids)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, Tensor | None, None]:
        (gradient,) = gradients
        tensor, shares = ctx.saved_tensors
        grids: tuple[Affine, ...] = ctx.grids
        if torch.is_grad_enabled():
            return *_followed(gradient, tensor, shares, grids), None
        wanted = ctx.needs_input_grad
        passed, products = _gradients(gradient, tensor, shares, grids, wanted[0])
        return passed, products if wanted[1] else None, None


def _mixed(tensor: Tensor, shares: Tensor, grids: tuple[Affine, ...]) -> Tensor:
    """sum_b a_b Q_b(t), block by block where each grid has one step."""
    weights = shares.tolist()
    if not _single(grids):
        parts = (fake_quantize(tensor, grid).mul_(a) for a, grid in zip(weights, grids, strict=True))
        return sum(parts, torch.zeros_like(tensor))
    tensor = tensor.contiguous()
    result = torch.empty_like(tensor)
    kept = torch.empty(min(BLOCK, tensor.numel()), dtype=tensor.dtype, device=tensor.device)
    for values, out in zip(_blocks(tensor), _blocks(result), strict=True):
        each = kept[: len(values)]
        for i, (a, grid) in enumerate(zip(weights, grids, strict=True)):
            torch.div(values, grid.scale.view(()), out=each).round_().clamp_(*grid.bounds)
            if i:
                out.add_(each, alpha=a * grid.step)
            else:
                torch.mul(each, a * grid.step, out=out)
    return result


def _followed(gradient: Tensor, tensor: Tensor, shares: Tensor, grids: tuple[Affine, ...]) -> tuple[Tensor, Tensor]:
    """The gradients of the tensor and of the shares, by operations that autograd follows."""
    passed = gradient * sum(a * _inside(tensor, grid) for a, grid in zip(shares, grids, strict=True))
    return passed, torch.stack([(gradient * fake_quantize(tensor, grid)).sum() for grid in grids])


def _gradients(
    gradient: Tensor, tensor: Tensor, shares: Tensor, grids: tuple[Affine, ...], passing: bool
) -> tuple[Tensor | None, Tensor]:
    """The gradients of the tensor (None where it wants none) and of the shares."""
    if not _single(grids):
        return _followed(gradient, tensor, shares, grids)
    weights = shares.tolist()
    tensor, gradient = tensor.contiguous(), gradient.contiguous()
    result = torch.empty_like(tensor) if passing else None
    products = torch.zeros_like(shares)
    kept = torch.empty(min(BLOCK, tensor.numel()), dtype=tensor.dtype, device=tensor.device)
    outs: list[Tensor | None] = [None] * len(_blocks(tensor)) if result is None else [*_blocks(result)]
    for values, incoming, out in zip(_blocks(tensor), _blocks(gradient), outs, strict=True):
        each = kept[: len(values)]
        for i, (a, grid) in enumerate(zip(weights, grids, strict=True)):
            low, high = grid.bounds
            torch.div(values, grid.scale.view(()), out=each).round_().clamp_(low, high)
            products[i] += torch.dot(incoming, each).mul_(grid.step)
            if out is not None:
                low, high = (low - 0.5) * grid.step, (high + 0.5) * grid.step
                torch.ops.aten.hardtanh_backward.grad_input(incoming, values, low, high, grad_input=each)
                if i:
                    out.add_(each, alpha=a)
                else:
                    torch.mul(each, a, out=out)
    return result, products


def _single(grids: tuple[Affine, ...]) -> bool:
    return all(grid.scale.numel() == 1 and grid.group_size is None for grid in grids)


def _blocks(tensor: Tensor) -> list[Tensor]:
    flat = tensor.view(-1)
    return [flat[start : start + BLOCK] for start in range(0, len(flat), BLOCK)]


def _inside(tensor: Tensor, grid: Affine) -> Tensor:
    """1 where a grid holds a value, 0 where it saturates, without gradient."""
    with torch.no_grad():
        values = tensor if grid.group_size is None else blocked(tensor, grid.group_size)
        steps = values / grid.scale
        low, high = grid.bounds
        inside = ((steps > low - 0.5) & (steps < high + 0.5)).to(tensor.dtype)
        return inside if grid.group_size is None else unblocked(inside, tensor.shape)
