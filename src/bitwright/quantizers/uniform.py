"""The uniform affine quantizer: rounds activations at each pass, and each weight once per grid."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from bitwright.errors import InvalidInput
from bitwright.numerics.affine import Affine, dequantized, fake_quantize, straight_through
from bitwright.numerics.ranges import Observed, RowHarm, activation_affine, check_method, weight_affine
from bitwright.quantizers.base import Quantizer, Settling
from bitwright.quantizers.kind import QUANTIZERS, QuantizerKind
from bitwright.values import Site


class UniformQuantizer(Quantizer):
    """Rounds a tensor to a uniform grid that is chosen from its range.

    Grids are made when they are first needed and kept for each width, so that applying a policy only sets
    ``bits``.
    """

    def __init__(
        self, site: Site, weight: Tensor | None = None, ranges: str = "mse", percentile: float = 99.99
    ) -> None:
        super().__init__(site, weight)
        self.ranges = ranges
        self.percentile = percentile
        self._affines: dict[int, Affine] = {}
        self._fixed: dict[int, Affine] = {}
        self._settled: tuple[int | None, Affine] | None = None

    def set_ranges(self, method: str, percentile: float = 99.99) -> None:
        """Choose how ranges are set from now on, and forget grids (and roundings) that were fixed."""
        check_method(method)
        self.ranges, self.percentile = method, percentile
        self._fixed = {}
        self.reset()

    @property
    def takes_grids(self) -> bool:
        """Whatever repairs choose."""
        return True

    def refit(self) -> None:
        """Set ranges anew by the method in use, and forget grids (and roundings) that were fixed."""
        self.set_ranges(self.ranges, self.percentile)

    def fix(self, bits: int, affine: Affine, rounded: Tensor | None = None) -> None:
        """Use this grid at this width, whatever the range method says."""
        self._fixed[bits] = affine
        self.reset()

    @property
    def fixed(self) -> tuple[int, ...]:
        """The widths whose grid was fixed."""
        return tuple(self._fixed)

    def state(self, bits: Iterable[int] = ()) -> dict[str, Any]:
        """The range method, and the grids of these widths and of those that were fixed."""
        about = {"ranges": self.ranges, "percentile": self.percentile}
        return {**about, **super().state({*self.fixed, *bits})}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over grids that any quantizer had, and the range method of a uniform one."""
        self.set_ranges(state.get("ranges", self.ranges), state.get("percentile", self.percentile))
        super().load(state)

    def reset(self) -> None:
        """Forget the grids, after something that they depend on has changed."""
        self._affines = {}
        self._settled = None

    def settle(self, affine: Affine | None) -> None:
        """Use this grid at the present width only; None for the one that the range method chose."""
        self._settled = None if affine is None else (self.bits, affine)

    def grid(self, bits: int) -> Affine:
        """The grid at a width: at the current one, the one that simulation and export use."""
        if self._settled is not None and bits == self.bits == self._settled[0]:
            return self._settled[1]
        return self.own_grid(bits)

    def own_grid(self, bits: int) -> Affine:
        """The grid at a width as it was chosen or fixed, before :meth:`settle` replaced it (made once)."""
        found = self._affines.get(bits)
        if found is None:
            found = self._affines[bits] = self._fixed.get(bits) or self._make(bits)
        return found

    def _make(self, bits: int) -> Affine:
        raise NotImplementedError


class ActivationQuantizer(UniformQuantizer):
    """Stands behind an activation; needs calibration before it can round."""

    def __init__(self, site: Site, ranges: str = "mse", percentile: float = 99.99) -> None:
        super().__init__(site, None, ranges, percentile)
        self._settles = True

    @property
    def calibrated(self) -> bool:
        """Whether values were observed or every grid was fixed."""
        return self.observed is not None or bool(self._fixed)

    @property
    def settling(self) -> Settling | None:
        """What min-max keeps within the grid stays there, and a grid that was loaded from one that does not settle."""
        if not self._settles:
            return None
        return "nearest" if self.ranges == "mse" else "up"

    def set_ranges(self, method: str, percentile: float = 99.99) -> None:
        """Choose how ranges are set from now on, and forget grids that were fixed."""
        self._settles = True
        super().set_ranges(method, percentile)

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over grids that any quantizer had, to be adjusted only if its own were, and the range method."""
        super().load(state)
        self._settles = state.get("settling") != "none"

    def check_range(self, bits: int) -> None:
        """Raise :class:`InvalidInput` if there is no range from which a grid at this width can be made."""
        if self.observed is not None or bits in self._fixed:
            return
        if self._fixed:
            widths = ", ".join(str(width) for width in sorted(self._fixed))
            raise InvalidInput(
                f"site '{self.site.name}' has a range at {widths} bits only, as its recipe fitted it, got {bits}; pass "
                "batches to apply_recipe to have ranges for other widths"
            )
        raise InvalidInput(
            f"site '{self.site.name}' has no range yet; call bw.calibrate(graph, batches) before applying a policy"
        )

    def _make(self, bits: int) -> Affine:
        self.check_range(bits)
        assert self.observed is not None
        scheme = self.site.scheme
        low, high = scheme.integer_range(bits)
        return activation_affine(self.observed, low, high, scheme.symmetric, self.ranges, self.percentile)

    def quantize(self, tensor: Tensor, bits: int) -> Tensor:
        """Round to the grid of a width."""
        affine = self.grid(bits)
        if affine.scale.device != tensor.device:
            settled = self._settled is not None and affine is self._settled[1]
            affine = affine.to(tensor.device)
            if settled:
                self._settled = (bits, affine)
            else:
                self._affines[bits] = affine
        return fake_quantize(tensor, affine)


class WeightQuantizer(UniformQuantizer):
    """Stands behind a weight; rounds it once for each grid and keeps only the result in use.

    Rounding is to the nearest grid point, or the one that a repair learned for a width (:meth:`fix`);
    :meth:`integers` is what the simulation and every export use.
    """

    def __init__(self, site: Site, weight: Tensor, ranges: str = "mse", percentile: float = 99.99) -> None:
        super().__init__(site, weight, ranges, percentile)
        self._learned: dict[int, Tensor] = {}
        self._seen = weight._version
        self._kept: tuple[Any, Tensor] | None = None
        self._output_error: RowHarm | None = None

    def hold(self, weight: Tensor) -> None:
        """Take another tensor for the float weight; what was learned stays if the values are the same."""
        if weight is not self.weight:
            self._notice_changes()
            if self._learned and not torch.equal(self.weight.detach().to(weight.device), weight.detach()):
                self._forget_learned()
            self._seen = weight._version
        super().hold(weight)

    def observe(self, seen: Observed | RowHarm | None) -> None:
        """Take over what calibration saw: what an error of this weight does to each output channel.

        Ranges by mean squared error then look at the outputs, as at low widths they must: which weights may be
        clipped depends on the inputs that they meet.
        """
        self._output_error = None if isinstance(seen, Observed) else seen
        self.reset()

    def reset(self) -> None:
        """Forget grids and the rounded weight."""
        super().reset()
        self._kept = None

    @property
    def settling(self) -> Settling | None:
        """Up, unless the integers at the present width were learned for its grid."""
        return None if self.bits is None or self.learned(self.bits) else "up"

    def grid(self, bits: int) -> Affine:
        """The grid at a width; made anew when the float weight was changed in place."""
        self._notice_changes()
        return super().grid(bits)

    def own_grid(self, bits: int) -> Affine:
        """The grid at a width before :meth:`settle` replaced it; made anew when the float weight was changed."""
        self._notice_changes()
        return super().own_grid(bits)

    @property
    def fixed(self) -> tuple[int, ...]:
        """The widths whose grid was fixed."""
        self._notice_changes()
        return super().fixed

    def _notice_changes(self) -> None:
        if self.weight._version != self._seen:
            self._seen = self.weight._version
            self._forget_learned()
            self.reset()

    def _forget_learned(self) -> None:
        for bits in self._learned:
            self._fixed.pop(bits, None)
        self._learned = {}

    def set_ranges(self, method: str, percentile: float = 99.99) -> None:
        """Choose how ranges are set from now on, and forget grids and roundings that were fixed."""
        self._learned = {}
        super().set_ranges(method, percentile)

    def fix(self, bits: int, affine: Affine, rounded: Tensor | None = None) -> None:
        """Use this grid at this width, and round to the nearest of its points, or to the integers that are given."""
        self._notice_changes()
        self._learned.pop(bits, None)
        if rounded is not None:
            self._check_integers(bits, affine, rounded)
            self._learned[bits] = rounded.detach().to(torch.int8 if bits <= 8 else torch.int16)
        super().fix(bits, affine)

    def _check_integers(self, bits: int, affine: Affine, rounded: Tensor) -> None:
        if rounded.shape != self.weight.shape:
            raise InvalidInput(
                f"rounded must have the weight's shape {tuple(self.weight.shape)} at site '{self.site.name}', "
                f"got {tuple(rounded.shape)}"
            )
        smallest, largest = int(rounded.min()), int(rounded.max())
        if smallest < affine.low or largest > affine.high:
            raise InvalidInput(
                f"rounded must be between {affine.low} and {affine.high} at {bits} bits for site '{self.site.name}', "
                f"got {smallest} to {largest}"
            )

    def learned(self, bits: int) -> bool:
        """Whether the rounding at a width was learned by a repair."""
        self._notice_changes()
        return bits in self._learned

    def integers(self, bits: int, tensor: Tensor | None = None) -> Tensor:
        """The integers that stand for the weight at a width, as float32 in its shape."""
        if tensor is None and self.learned(bits):
            return self._learned[bits].to(self.weight.device, torch.float32)
        return super().integers(bits, tensor)

    def _make(self, bits: int) -> Affine:
        scheme = self.site.scheme
        low, high = scheme.integer_range(bits)
        axis = None if scheme.granularity == "tensor" else scheme.axis
        group = scheme.group_size if scheme.granularity == "group" else None
        return weight_affine(self.weight, low, high, axis, group, self.ranges, self.percentile, self._output_error)

    def quantize(self, tensor: Tensor, bits: int) -> Tensor:
        """Round the weight to the grid of a width, or to the integers that were learned for it."""
        affine = self.grid(bits).to(tensor.device)
        if bits in self._learned:
            return straight_through(dequantized(self.integers(bits), affine), tensor)
        return fake_quantize(tensor, affine)

    def forward(self, tensor: Tensor) -> Tensor:
        """Round, or pass through in float; without gradients the weight is rounded once for each grid."""
        if self.bits is None:
            self._kept = None
        if self.bits is None or torch.is_grad_enabled() and tensor.requires_grad:
            return super().forward(tensor)
        grid = self.grid(self.bits)  # forgets what was kept if the weight has changed
        if self._kept is None or self._kept[0] is not grid or self._kept[1].device != self.weight.device:
            self._kept = (grid, self.rounded(self.bits))
        return self._kept[1]


def _uniform(site: Site) -> Quantizer:
    return ActivationQuantizer(site) if site.kind == "activation" else WeightQuantizer(site, torch.empty(0))


QUANTIZERS.register(
    QuantizerKind(
        name="uniform",
        order=10,
        does="Rounds to the nearest of equally spaced values, with the site's own scheme.",
        function=_uniform,
    )
)
