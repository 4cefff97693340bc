"""The contract of a shift."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from bitwright.behavior import Shift
from bitwright.errors import InvalidData, InvalidInput
from bitwright.values.behavior import SEVERITIES

LARGEST = 99


class ShiftContract(ABC):
    """What every shift must do; derive from it and write :meth:`make`."""

    @abstractmethod
    def make(self) -> Shift:
        """The shift."""

    def inputs(self) -> Tensor:
        """Smooth images of three colours, or sentences of numbers that end in zeros."""
        generator = torch.Generator().manual_seed(4)
        if self.make().kind == "words":
            words = torch.randint(1, LARGEST, (16, 24), generator=generator)
            words[:, 20:] = 0
            return words
        small = torch.rand(4, 3, 5, 5, generator=generator)
        return torch.nn.functional.interpolate(small, (32, 32), mode="bilinear", align_corners=True)

    def _under(self, severity: int, seed: int = 0) -> Tensor:
        return self.make()(self.inputs(), severity, seed, LARGEST)

    def test_it_says_what_it_stands_for(self) -> None:
        """Name, sentence and kind."""
        shift = self.make()
        assert shift.name
        assert shift.does.endswith("."), "does is a sentence"
        assert shift.kind in ("images", "words")

    def test_inputs_stay_inputs(self) -> None:
        """The same shape and type, within the same limits, and the ones that were given are left alone."""
        given, before = self.inputs(), self.inputs()
        for severity in SEVERITIES:
            found = self.make()(given, severity, 0, LARGEST)
            assert found.shape == given.shape, f"shape {tuple(found.shape)} from {tuple(given.shape)}"
            assert found.dtype == given.dtype, f"{found.dtype} from {given.dtype}"
            largest = LARGEST if self.make().kind == "words" else 1
            assert 0 <= float(found.min()) <= float(found.max()) <= largest, "values outside the limits"
        assert torch.equal(given, before), "a shift must not change the tensor that it is given"

    def test_the_same_seed_gives_the_same(self) -> None:
        """Whatever random numbers were drawn before."""
        torch.manual_seed(1)
        first = self._under(3, 7)
        torch.manual_seed(2)
        assert torch.equal(self._under(3, 7), first), "draw from the generator that the function is given"

    def test_it_changes_something(self) -> None:
        """At its highest severity, on some of several draws."""
        assert any(not torch.equal(self._under(5, seed), self.inputs()) for seed in range(4))

    def test_what_does_not_fit_is_refused(self) -> None:
        """Another severity, and inputs of another kind."""
        shift = self.make()
        for inputs, severity, error in ((self.inputs(), 6, InvalidInput), (torch.zeros(2, 3), 1, InvalidData)):
            try:
                shift(inputs, severity)
            except error:
                continue
            raise AssertionError(f"{error.__name__} must be raised for severity {severity} and {tuple(inputs.shape)}")
