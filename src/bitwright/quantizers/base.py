"""The protocol of what stands at a site: everything that the rest of Bitwright asks of a quantizer.

A quantizer of one's own derives from :class:`Quantizer` and writes :meth:`~Quantizer.grid`; what does not round to
the nearest point of that grid writes :meth:`~Quantizer.quantize` and :meth:`~Quantizer.integers` as well. Everything
else has an answer here that is right for a quantizer that sets no ranges and takes no grids from others.
:class:`bitwright.testing.QuantizerContract` checks one, and ``graph.put(site, quantizer)`` puts it to work.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bitwright.errors import InvalidInput
from bitwright.numerics.affine import Affine, fake_quantize, integers
from bitwright.numerics.ranges import Observed, RowHarm
from bitwright.values import Site

Settling = Literal["nearest", "up"]


class Quantizer(nn.Module):
    """A module at a site: returns its input unchanged in float, and on its grid otherwise.

    Parameters that it learns are its ``nn.Parameter``s: they then belong to ``graph.module.parameters()``.

    Args:
        site: where it stands.
        weight: the float weight, for a weight site; :meth:`hold` can give it later, as ``graph.put`` does.

    Attributes:
        site: where it stands.
        bits: the width it simulates now, or None for float. A policy sets nothing else.
        observed: at an activation what calibration saw, else None.
        settling: how its step may be adjusted where tensors are added, or to a bias, see :meth:`settle`: to the
            ``"nearest"`` one that fits, only ``"up"``, so that nothing falls out of the range, or not at all (None).
    """

    bits: int | None
    observed: Observed | None

    def __init__(self, site: Site, weight: Tensor | None = None) -> None:
        super().__init__()
        self.site = site
        self.bits = None
        self.observed = None
        self._held = [] if weight is None else [weight]  # in a list, so that it isn't registered a second time

    @abstractmethod
    def grid(self, bits: int) -> Affine:
        """The grid at a width, as it is simulated and exported.

        Constants: tensors that want no gradient and that no later step of an optimizer changes. The same object may be
        returned while the grid is the same, and another one must be as soon as it isn't: what is made from grids is
        kept by their identity.
        """

    def grid_for(self, tensor: Tensor, bits: int) -> Affine:
        """The grid on which a tensor is rounded at a width: :meth:`grid`, unless each tensor has its own."""
        return self.grid(bits)

    @property
    def dynamic(self) -> bool:
        """Whether :meth:`grid_for` makes a grid from each tensor that passes, as the runtime does.

        :meth:`grid` is then the one for a tensor that reaches as far as what calibration saw: an estimate for what
        looks at steps without values. Nothing that is exported depends on it, and biases stay in float.
        """
        return False

    @property
    def takes_grids(self) -> bool:
        """Whether :meth:`fix` takes grids and integers that were chosen elsewhere: what repairs of rounding need."""
        return False

    @property
    def settling(self) -> Settling | None:
        """See the class."""
        return None

    @property
    def expected_bits(self) -> float | Tensor | None:
        """The width that a cost model counts, None in float.

        For a mixture of widths no whole number, and a tensor with a gradient where the mixture is learned. What is
        exported has ``expected_bits == bits``.
        """
        return self.bits

    @property
    def calibrated(self) -> bool:
        """Whether a grid can be made."""
        return True

    def check_range(self, bits: int) -> None:
        """Raise :class:`InvalidInput` if there is nothing from which a grid at this width can be made."""

    def forward(self, tensor: Tensor) -> Tensor:
        """Round, or pass through in float."""
        return tensor if self.bits is None else self.quantize(tensor, self.bits)

    def quantize(self, tensor: Tensor, bits: int) -> Tensor:
        """The tensor rounded at any width, with (straight-through) gradients where they are wanted.

        With gradients and without, the values are the same to the last bit.
        """
        return fake_quantize(tensor, self.grid_for(tensor, bits).to(tensor.device))

    def integers(self, bits: int, tensor: Tensor | None = None) -> Tensor:
        """The integers that stand for the weight at a width, or at an activation for ``tensor``, as floats.

        ``dequantized(integers(bits), grid(bits))`` is what :meth:`quantize` gives, to the last bit; at an activation
        with ``grid_for(tensor, bits)``.
        """
        with torch.no_grad():
            tensor = self.weight if tensor is None else tensor
            return integers(tensor, self.grid_for(tensor, bits).to(tensor.device))

    def rounded(self, bits: int, tensor: Tensor | None = None) -> Tensor:
        """The weight (at an activation: ``tensor``) rounded at any width, without gradient, made anew."""
        with torch.no_grad():
            return self.quantize(self.weight if tensor is None else tensor, bits)

    @property
    def weight(self) -> Tensor:
        """The float weight.

        Raises:
            InvalidInput: the site is an activation.
        """
        if not self._held:
            raise InvalidInput(f"site '{self.site.name}' holds no weight")
        return self._held[0]

    def hold(self, weight: Tensor) -> None:
        """Take another tensor for the float weight: the graph's own, after it was put or moved there."""
        self._held = [weight]
        self.reset()

    def observe(self, seen: Observed | RowHarm | None) -> None:
        """Take over what calibration saw; None to forget it.

        Args:
            seen: at an activation its values; at a weight what an error of it does to each output channel.
        """
        self.observed = seen if isinstance(seen, Observed) else None
        self.reset()

    def set_ranges(self, method: str, percentile: float = 99.99) -> None:
        """Choose how ranges are set from now on, and forget what :meth:`fix` fixed. Learned steps stay."""

    def refit(self) -> None:
        """Set ranges anew by the method in use, and forget what :meth:`fix` fixed. Learned steps stay."""

    def fix(self, bits: int, affine: Affine, rounded: Tensor | None = None) -> None:
        """Use this grid at this width, whatever the range method says.

        Args:
            bits: the width.
            affine: the grid.
            rounded: integers to use with it until the float weight changes, in the shape of the weight, any dtype;
                None for the nearest.

        Raises:
            InvalidInput: the quantizer takes no grid, or the integers do not fit.
        """
        raise InvalidInput(
            f"the {type(self).__name__} at site '{self.site.name}' takes no grid from outside; put a uniform quantizer "
            "there first"
        )

    def learned(self, bits: int) -> bool:
        """Whether the weight's integers at a width differ from the nearest ones."""
        if self.site.kind != "weight":
            return False
        return not torch.equal(
            self.integers(bits), integers(self.weight.detach(), self.grid(bits).to(self.weight.device))
        )

    def settle(self, affine: Affine | None) -> None:
        """Use this grid at the present width only; None for one's own. Only where :attr:`settling` says so.

        See :mod:`bitwright.graph.additions` and :meth:`bitwright.quantizers.bias.BiasQuantizer.settle`.
        """

    def own_grid(self, bits: int) -> Affine:
        """The grid at a width before :meth:`settle` replaced it."""
        return self.grid(bits)

    def reset(self) -> None:
        """Forget what was made from weight, range or device, after one of them has changed."""

    def state(self, bits: Iterable[int] = ()) -> dict[str, Any]:
        """What decides the outputs at some widths, by name: tensors, numbers and strings, to be kept in a file.

        Here: the grid of each width, and the integers where they are learned. Every :meth:`load` of a quantizer that
        takes grids can read that: what was learned by another quantizer needs only a uniform one to be run.
        A quantizer with parameters of its own adds them.
        """
        found: dict[str, Any] = {} if self.settling or self.site.kind == "weight" else {"settling": "none"}
        for width in sorted(bits):
            affine = self.own_grid(width)
            found[f"scale/{width}"] = affine.scale
            found[f"zero/{width}"] = affine.zero_point
            found[f"grid/{width}"] = torch.tensor([affine.low, affine.high, affine.group_size or 0], dtype=torch.int32)
            if self.learned(width):
                kind = torch.int8 if width <= 8 else torch.int16
                found[f"integers/{width}"] = self.integers(width).to(kind)
        return found

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state` gave; what another class of quantizers added is ignored."""
        for width, affine, rounded in grids_of(state):
            self.fix(width, affine, rounded)

    def extra_repr(self) -> str:
        """Shown when the graph is printed."""
        return f"{self.site.name}, bits={self.bits or 'float'}"


def grids_of(state: Mapping[str, Any]) -> list[tuple[int, Affine, Tensor | None]]:
    """Width, grid and learned integers (None: the nearest) from a :meth:`Quantizer.state`."""
    found = []
    for key in state:
        what, _, width = key.partition("/")
        if what == "scale":
            low, high, group = (int(number) for number in state[f"grid/{width}"])
            affine = Affine(state[key].clone(), state[f"zero/{width}"].clone(), low, high, group or None)
            found.append((int(width), affine, state.get(f"integers/{width}")))
    return found
