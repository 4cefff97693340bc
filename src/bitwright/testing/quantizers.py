"""The contract of a quantizer, as a base class for tests::

    from bitwright.testing import QuantizerContract
    from bitwright.values import Site

    class TestMine(QuantizerContract):
        widths = (4, 8)

        def make(self):
            return Mine(Site("relu", "activation", (1, 8)))

pytest then runs each method here on it; without pytest, call them.
"""

from __future__ import annotations

import copy
import io
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from bitwright.numerics.affine import Affine, dequantized
from bitwright.quantizers.base import Quantizer
from bitwright.quantizers.uniform import ActivationQuantizer, UniformQuantizer, WeightQuantizer

_ROUNDING = {
    getattr(owner, f"{name}{end}")
    for name in ("round", "floor", "ceil", "trunc")
    for owner, end in ((torch, ""), (torch, "_"), (Tensor, ""), (Tensor, "_"))
}


class QuantizerContract(ABC):
    """What everything that stands at a site must do; derive from it and write :meth:`make`.

    Attributes:
        widths: that the quantizer is checked at.
        mixes: whether it mixes several widths, so that its values are on no grid and nothing can be exported.
    """

    widths: tuple[int, ...] = (2, 3, 4, 8)
    mixes: bool = False

    @abstractmethod
    def make(self) -> Quantizer:
        """A quantizer that is ready to round, in float, each time a new one and the same."""

    def values(self, quantizer: Quantizer) -> Tensor:
        """What passes the site: the weight, or 400 values from half as far again as the widest grid reaches."""
        if quantizer.site.kind == "weight":
            return quantizer.weight.detach()
        low, high = _ends(quantizer.grid(max(self.widths)))
        spread = torch.rand(400, generator=torch.Generator().manual_seed(0)) * 1.5 - 0.25
        return float(low) + spread * float(high - low)

    def gradient_scale(self, quantizer: Quantizer, parameter: str) -> float:
        """What the gradient of a parameter is multiplied by on purpose, as learned steps' is."""
        return 1.0

    def test_float_passes_unchanged(self) -> None:
        """Without a width the very tensor comes out, and no width is counted."""
        quantizer = self.make()
        tensor = self.values(quantizer)
        assert quantizer.bits is None, "a new quantizer is in float"
        assert quantizer(tensor) is tensor, "in float the input itself must come out"
        assert quantizer.expected_bits is None, "in float no width is counted"

    def test_forward_gives_integers_on_the_grid(self) -> None:
        """To the last bit, whatever the width was before."""
        if self.mixes:
            return
        quantizer = self.make()
        for width in (*self.widths, *self.widths[::-1]):
            quantizer.check_range(width)
            quantizer.bits = width
            tensor = self.values(quantizer)
            grid, found = quantizer.grid_for(tensor, width), quantizer.integers(width, self._given(quantizer, tensor))
            assert grid.low <= float(found.min()), f"integers below the grid at {width} bits"
            assert float(found.max()) <= grid.high, f"integers above the grid at {width} bits"
            assert torch.equal(found, found.round()), f"integers that are not whole at {width} bits"
            assert grid.high - grid.low < 1 << width, f"more than 2^{width} integers at {width} bits"
            _same(quantizer(tensor), dequantized(found, grid), f"forward and integers on the grid at {width} bits")
            rounded = quantizer.rounded(width, self._given(quantizer, tensor))
            _same(rounded, dequantized(found, grid), f"rounded and integers on the grid at {width} bits")

    def test_widths_are_counted(self) -> None:
        """``expected_bits`` is the width; a mixture's lies between its smallest and largest and can be learned."""
        quantizer = self.make()
        for width in self.widths:
            quantizer.bits = width
            expected = quantizer.expected_bits
            assert expected is not None, f"expected_bits must be a number at {width} bits"
            if not self.mixes:
                assert expected == width, f"expected_bits must be {width}, got {expected}"
                continue
            assert isinstance(expected, Tensor), "the expected bits of a mixture are a tensor"
            assert expected.requires_grad, "the expected bits of a mixture must have a gradient"
            count = float(expected.detach())
            assert min(self.widths) <= count <= max(self.widths), f"{count} bits are expected of {self.widths}"

    def test_gradients_change_no_value(self) -> None:
        """With and without gradients the same values come out, to the last bit."""
        quantizer = self.make()
        for width in self.widths:
            quantizer.bits = width
            tensor = self.values(quantizer)
            with torch.no_grad():
                without = quantizer(tensor)
            found = quantizer(tensor.clone().requires_grad_())
            assert found.requires_grad, f"no gradient reaches the tensor at {width} bits"
            _same(found.detach(), without, f"values with and without gradients at {width} bits")

    def test_straight_through_gradients(self) -> None:
        """Gradients are those of the quantizer with its rounding errors, in steps, held where they are.

        Central differences in float64 along random directions, of the tensor and of each parameter. Values at the ends
        of a grid are left out: on which side of an end the gradient stops is the quantizer's own affair. So are grids
        that are made from each tensor: they move with the values at the ends.
        """
        if self.make().dynamic:
            return
        for width in self.widths:
            quantizer = self.make().double()
            tensor = self._away_from_ends(quantizer, self.values(quantizer).double()).requires_grad_()
            generator = torch.Generator().manual_seed(width)
            factors = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            (quantizer.quantize(tensor, width) * factors).sum().backward()  # type: ignore[no-untyped-call]
            frozen = _Frozen()
            with torch.no_grad(), frozen:
                quantizer.quantize(tensor, width)
            learned = {name: each for name, each in quantizer.named_parameters() if each.requires_grad}
            for name, variable in {"the tensor": tensor, **learned}.items():
                scale = self.gradient_scale(quantizer, name) if name in learned else 1.0
                gradient = torch.zeros_like(variable) if variable.grad is None else variable.grad
                for _ in range(4):
                    direction = torch.randn(variable.shape, generator=generator, dtype=torch.float64)
                    ends, start = [], variable.detach().clone()
                    step = 1e-6 * (float(start.abs().max()) or 1.0)
                    for there in (step, -step, 0.0):
                        with torch.no_grad(), frozen.again():
                            variable.copy_(start + there * direction)
                            ends.append(float((quantizer.quantize(tensor, width) * factors).sum()))
                    wanted = scale * (ends[0] - ends[1]) / (2 * step)
                    found = float((gradient * direction).sum())
                    assert abs(found - wanted) <= 1e-4 * (abs(wanted) + float(gradient.norm()) + 1e-3), (
                        f"the gradient of {name} at {width} bits: {found:.6g} along a direction, must be {wanted:.6g}"
                    )

    def test_grids_are_constants(self) -> None:
        """No gradient, no change under a step of an optimizer, and another object afterwards."""
        for width in self.widths:
            quantizer = self.make()
            grid = quantizer.grid(width)
            scale, zero = grid.scale.clone(), grid.zero_point.clone()
            assert not grid.scale.requires_grad, "a grid's tensors must want no gradient"
            assert not grid.zero_point.requires_grad, "a grid's tensors must want no gradient"
            _change(quantizer)
            _same(grid.scale, scale, "the steps of a grid before and after the parameters changed")
            _same(grid.zero_point, zero, "the zero points of a grid before and after the parameters changed")
            after = quantizer.grid(width)
            if not torch.equal(after.scale, scale) or not torch.equal(after.zero_point, zero):
                assert after is not grid, "another grid must be another object"

    def test_state_goes_to_disk_and_back(self) -> None:
        """Another one made of it gives the same outputs; so does a uniform quantizer, unless widths are mixed."""
        quantizer = self.make()
        _change(quantizer)
        state = quantizer.state(self.widths)
        plain = {key: value for key, value in state.items() if not isinstance(value, Tensor)}
        assert all(isinstance(value, (str, int, float)) for value in plain.values()), f"a state holds {plain}"
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        read = torch.load(file, weights_only=True)
        others = [self.make()]
        if not self.mixes and not quantizer.dynamic:
            others.append(_uniform(quantizer))
        for other in others:
            other.load(read)
            for width in self.widths:
                found, wanted = _output(other, width, self), _output(quantizer, width, self)
                _same(found, wanted, f"a {type(other).__name__} of its state and the quantizer at {width} bits")

    def test_copies_are_independent(self) -> None:
        """The same outputs, and a change of one leaves the other alone."""
        quantizer = self.make()
        quantizer.bits = self.widths[0]
        quantizer(self.values(quantizer).clone().requires_grad_())
        copied = copy.deepcopy(quantizer)
        before = [_output(quantizer, width, self) for width in self.widths]
        for width, wanted in zip(self.widths, before, strict=True):
            _same(_output(copied, width, self), wanted, f"the original and its copy at {width} bits")
        _change(copied)
        copied.observe(None)
        copied.set_ranges("minmax")
        copied.bits = None
        for width, wanted in zip(self.widths, before, strict=True):
            _same(_output(quantizer, width, self), wanted, f"before and after its copy was changed at {width} bits")

    def test_a_weight_that_changes_is_rounded_anew(self) -> None:
        """In place, as an optimizer changes it; and another tensor that is held instead."""
        quantizer = self.make()
        if quantizer.site.kind != "weight":
            return
        weight = quantizer.weight.detach().clone()
        quantizer.hold(weight)
        assert quantizer.weight is weight, "hold must take the tensor that it is given"
        for quantizer.bits in self.widths:
            with torch.no_grad():
                before = quantizer(weight).clone()
                weight.mul_(-0.7)
                assert not torch.equal(quantizer(weight), before), "a weight changed in place must be rounded anew"
            if not self.mixes:
                grid = quantizer.grid(quantizer.bits)
                _same(quantizer(weight), dequantized(quantizer.integers(quantizer.bits), grid), "after a change")

    def test_it_moves_between_devices(self) -> None:
        """Its parameters go along, and where there is a GPU it gives there what it gives on the CPU."""
        moved = self.make().to("meta")
        assert all(each.is_meta for each in [*moved.parameters(), *moved.buffers()]), "a parameter stayed behind"
        if moved.site.kind == "weight":
            moved.hold(moved.weight.to("meta"))
            assert moved.weight.is_meta, "hold must take the tensor that it is given"
        if not torch.cuda.is_available():
            return
        quantizer, moved = self.make(), self.make().to("cuda")
        for width in self.widths:
            quantizer.bits = moved.bits = width
            tensor = self.values(quantizer)
            if moved.site.kind == "weight":
                moved.hold(tensor.to("cuda"))
            moved.reset()
            with torch.no_grad():
                torch.testing.assert_close(moved(tensor.to("cuda")).cpu(), quantizer(tensor), rtol=1e-6, atol=1e-7)

    def _given(self, quantizer: Quantizer, tensor: Tensor) -> Tensor | None:
        return None if quantizer.site.kind == "weight" else tensor

    def _away_from_ends(self, quantizer: Quantizer, tensor: Tensor) -> Tensor:
        grids = [quantizer.grid(width) for width in sorted(self.widths)]
        near = torch.zeros_like(tensor, dtype=torch.bool)
        for grid in grids:
            low, high = (dequantized(torch.full_like(tensor, end), grid) for end in (grid.low, grid.high))
            reach = 0.6 * (high - low) / (grid.high - grid.low)
            near |= ((tensor - low).abs() < reach) | ((tensor - high).abs() < reach)
        widest = grids[-1]
        middle = dequantized(torch.full_like(tensor, (widest.low + widest.high) // 2 + 0.3), widest)
        return torch.where(near, middle, tensor)


class _Frozen(TorchFunctionMode):
    """Notes what each rounding adds to its argument; under :meth:`again` adds that, instead of rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[Tensor] = []
        self.position: int | None = None

    def again(self) -> _Frozen:
        self.position = 0
        return self

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in _ROUNDING:
            return func(*args, **(kwargs or {}))
        value = args[0]
        if self.position is None:
            before = value.clone()
            result = func(*args, **(kwargs or {}))
            self.errors.append(result - before)
            return result
        error = self.errors[self.position]
        self.position += 1
        return value.add_(error) if func.__name__.endswith("_") else value + error


def _ends(grid: Affine) -> tuple[Tensor, Tensor]:
    """The lowest and the highest value of a grid, over all channels."""
    low, high = ((end - grid.zero_point) * grid.scale for end in (grid.low, grid.high))
    return low.min(), high.max()


def _uniform(quantizer: Quantizer) -> UniformQuantizer:
    """A uniform quantizer for the same site that knows nothing yet."""
    if quantizer.site.kind == "weight":
        return WeightQuantizer(quantizer.site, quantizer.weight)
    return ActivationQuantizer(quantizer.site)


def _change(quantizer: Quantizer) -> None:
    """Move every parameter a little, as training does."""
    with torch.no_grad():
        for parameter in quantizer.parameters():
            shift = torch.linspace(0.05, 0.1, parameter.numel()).reshape(parameter.shape)
            parameter.add_(shift * float(parameter.abs().max() or 1.0))


def _output(quantizer: Quantizer, width: int, contract: QuantizerContract) -> Tensor:
    quantizer.bits = width
    with torch.no_grad():
        return quantizer(contract.values(contract.make())).clone()  # type: ignore[no-any-return]


def _same(found: Tensor, wanted: Tensor, what: str) -> None:
    assert torch.equal(found, wanted), f"{what} differ by up to {float((found - wanted).abs().max()):.3g}"
