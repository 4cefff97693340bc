"""Learned steps: the step of a grid and, at a weight, how far each value moves, as parameters that training finds.

LSQ (Esser et al., ICLR 2020) learns a step as a number of its own and divides its gradient by sqrt(N Q), since a step
and the values on it otherwise move at very different rates. Here every parameter is counted in units of the grid that
training starts from: the step as the logarithm of its ratio to the first one, a weight's move in steps. One learning
rate then suits every layer, channel and width, and the gradient needs no factor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bitwright.errors import InvalidInput
from bitwright.numerics.affine import Affine, blocked, fake_quantize, integers, spread, unblocked
from bitwright.numerics.steps import position_of, rounded_up, step_at, stride, tie_free
from bitwright.quantizers.base import Quantizer, Settling, grids_of
from bitwright.values import Site

_WITHIN = 0.25
"""How far from an integer a value starts that a repair has rounded to it: no nearer to the ends of its cell than to it,
so that the first steps of training do not take back what the repair found."""


class LearnedStep(Quantizer):
    """Rounds to a grid whose step is learned, at one width; a weight's values are learned along with it.

    The float weight itself stays what it is: what is learned is added to it here.

    Args:
        site: where it stands.
        bits: the width that it is learned for.
        start: the grid to begin with. Its zero point stays.
        weight: the float weight, for a weight site.
        settles: what :attr:`settling` is once the step is short.

    Attributes:
        log_step: natural logarithm of step / first step, in the shape of the first.
        moves: what is added to the weight, in first steps, in its shape; None at an activation.
    """

    first: Tensor
    zero: Tensor

    def __init__(
        self, site: Site, bits: int, start: Affine, weight: Tensor | None = None, settles: Settling | None = "nearest"
    ) -> None:
        super().__init__(site, weight)
        self.width, self._settles = bits, settles if site.kind == "activation" else None
        self.low, self.high, self.group_size = start.low, start.high, start.group_size
        self.register_buffer("first", start.scale.detach().clone())
        self.register_buffer("zero", start.zero_point.detach().clone())
        self.log_step = nn.Parameter(torch.zeros_like(start.scale))
        self.moves = None if site.kind == "activation" else nn.Parameter(torch.zeros(site.shape))
        self._short = False
        self._settled: Affine | None = None
        self._made: Affine | None = None

    @property
    def takes_grids(self) -> bool:
        """At its own width."""
        return True

    @property
    def settling(self) -> Settling | None:
        """Once the step is short, see :meth:`shorten`."""
        return self._settles if self._short else None

    def check_range(self, bits: int) -> None:
        """Raise :class:`InvalidInput` for a width other than the one that is learned."""
        if bits != self.width:
            raise InvalidInput(f"site '{self.site.name}' learns its step at {self.width} bits, got {bits}")

    def own_grid(self, bits: int) -> Affine:
        """The learned grid, before additions adjusted it."""
        self.check_range(bits)
        step = (self.first * self.log_step.detach().exp()).detach()
        made = self._made
        same = made is not None and (made.scale.dtype, made.scale.device) == (step.dtype, step.device)
        if made is None or not same or not torch.equal(made.scale, step):
            made = self._made = Affine(step, self.zero.clone(), self.low, self.high, self.group_size)
        return made

    def grid(self, bits: int) -> Affine:
        """The grid that is simulated and exported."""
        return self.own_grid(bits) if self._settled is None else self._settled

    def settle(self, affine: Affine | None) -> None:
        """Use this grid instead of the learned one; None for the learned one."""
        self._settled = affine

    def shorten(self, wanted: Tensor | None = None) -> None:
        """Take the nearest step that a runtime's arithmetic represents exactly, and learn the step no further.

        See :mod:`bitwright.numerics.steps`; the values are learned on.

        Args:
            wanted: such steps, in place of the nearest.
        """
        with torch.no_grad():
            found = self.first * self.log_step.exp()
            up = position_of(found)
            apart = stride(self.low, self.high)
            up = rounded_up(up, apart)
            down = up - apart
            short = torch.where((step_at(down) / found).log().abs() < (step_at(up) / found).log().abs(), down, up)
            if self.site.kind == "weight":
                short = tie_free(short, self.low, self.high)
            rounded = None if self.moves is None else self.integers(self.width)
            step = (step_at(short) if wanted is None else wanted.reshape(found.shape)).to(found)
            if self.moves is not None:  # counted in first steps, so they change with them
                self.moves.mul_(self._spread(self.first / step))
            self.first.copy_(step)
            self.log_step.zero_()
            if rounded is not None:
                self._keep(rounded, 0.5 - 1e-3)
        self.log_step.requires_grad_(False)
        self._short = True

    @torch.no_grad()
    def rescale(self, factors: Tensor) -> None:
        """Multiply the steps and with them all values, so that the integers stay; (channels,), one for each step."""
        factors = factors.reshape(self.first.shape)
        if self.moves is not None:
            place = self.weight / self._spread(self.first)
            self.moves.add_(place - place / self._spread(factors))
        self.first.mul_(factors)
        self.reset()

    def quantize(self, tensor: Tensor, bits: int) -> Tensor:
        """Round to the learned grid, with LSQ's gradients."""
        grid = self.grid(bits).to(tensor.device)
        tensor = self._moved(tensor)
        if not torch.is_grad_enabled():
            return fake_quantize(tensor, grid)
        found: Tensor = _Rounded.apply(tensor, self.log_step, grid)  # type: ignore[no-untyped-call]
        return found

    def integers(self, bits: int, tensor: Tensor | None = None) -> Tensor:
        """The integers that stand for the learned weight, or at an activation for ``tensor``."""
        with torch.no_grad():
            tensor = self._moved(self.weight if tensor is None else tensor)
            return integers(tensor, self.grid(bits).to(tensor.device))

    def _moved(self, tensor: Tensor) -> Tensor:
        return tensor if self.moves is None else tensor + self.moves * self._spread(self.first)

    def fix(self, bits: int, affine: Affine, rounded: Tensor | None = None) -> None:
        """Begin anew from this grid and, at a weight, from these integers."""
        self.check_range(bits)
        with torch.no_grad():
            self.first.copy_(affine.scale)
            self.zero.copy_(affine.zero_point)
            self.low, self.high, self.group_size = affine.low, affine.high, affine.group_size
            self.log_step.zero_()
            self._made = self._settled = None
            if self.moves is None:
                return
            self.moves.zero_()
            if rounded is not None:
                self._keep(rounded, _WITHIN)

    def _keep(self, rounded: Tensor, within: float) -> None:
        """Move values into the cells of these integers, up to some distance from them."""
        assert self.moves is not None
        place = self.weight.detach() / self._spread(self.first)
        steps = rounded.to(place) - self._spread(self.zero)
        low = torch.where(rounded > self.low, steps - within, -torch.inf)  # values outside the grid saturate
        high = torch.where(rounded < self.high, steps + within, torch.inf)
        self.moves.copy_((place + self.moves).clamp(low, high) - place)

    def load(self, state: Mapping[str, Any]) -> None:
        """Begin anew from the grid and the integers of its own width."""
        for width, affine, rounded in grids_of(state):
            if width == self.width:
                self.fix(width, affine, rounded)

    def reset(self) -> None:
        """Forget the grid that was made."""
        self._made = None

    def _spread(self, steps: Tensor) -> Tensor:
        """Steps in a shape that broadcasts to the weight's."""
        return spread(steps, self.group_size, torch.Size(self.site.shape))


class _Rounded(torch.autograd.Function):
    """Rounding to a grid; the gradient of the step is that of LSQ (eq. 3), of its logarithm the step times that.

    With q = Q(t): inside the grid dq/dt = 1 and dq/ds = (q - t) / s; where it saturates 0 and q / s. So two products
    with the gradient that comes in are all that is needed, and nothing is kept that the layers around do not keep.
    """

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, log_step: Tensor, grid: Affine) -> Tensor:
        with torch.no_grad():
            result = fake_quantize(tensor, grid)
        ctx.save_for_backward(tensor, result)
        ctx.grid = grid
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, Tensor | None, None]:
        (gradient,) = gradients
        tensor, result = ctx.saved_tensors
        grid: Affine = ctx.grid
        if grid.scale.numel() == 1:
            low, high = (float(end) * grid.step for end in grid.bounds)
            passed = torch.ops.aten.hardtanh_backward(gradient, tensor, low, high)
            if not ctx.needs_input_grad[1]:
                return passed, None, None
            found = _dot(gradient, result) - _dot(passed, tensor)
            return passed, found.reshape(grid.scale.shape), None
        size = grid.group_size
        gradient, tensor, result = (
            (each if size is None else blocked(each, size)) for each in (gradient, tensor, result)
        )
        low, high = (end * grid.scale for end in grid.bounds)
        passed = gradient * ((tensor > low) & (tensor < high))
        step = (gradient * result - passed * tensor).sum_to_size(grid.scale.shape)
        return (passed if size is None else unblocked(passed, ctx.saved_tensors[0].shape)), step, None


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """The sum of products, in float32 at least: without copies where both lie in memory in the same dense order."""
    order = sorted(range(one.dim()), key=one.stride, reverse=True)
    one, other = (each.permute(order).reshape(-1) for each in (one, other))
    # torch's dot of bfloat16 numbers is a loop over them.
    return torch.dot(*(each.float() if each.itemsize < 4 else each for each in (one, other)))
