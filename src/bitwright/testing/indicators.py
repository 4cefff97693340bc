"""The contract of an indicator."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from bitwright.behavior import Indicator


class IndicatorContract(ABC):
    """What every indicator must do; derive from it and write :meth:`make`."""

    @abstractmethod
    def make(self) -> Indicator:
        """The indicator."""

    def probabilities(self) -> Tensor:
        """(16, 10) of classes, from nearly certain to nearly even."""
        generator = torch.Generator().manual_seed(3)
        logits = torch.randn(16, 10, generator=generator, dtype=torch.float64)
        return (logits * torch.linspace(8, 0.1, 16, dtype=torch.float64)[:, None]).softmax(1)

    def test_it_says_what_it_is(self) -> None:
        """Name and sentence."""
        indicator = self.make()
        assert indicator.name
        assert indicator.does.endswith("."), "does is a sentence"

    def test_each_input_has_its_own_value(self) -> None:
        """One number for each, the same alone and among others, whatever the order of the classes."""
        function, given = self.make().function, self.probabilities()
        found = function(given)
        assert found.shape == (16,), f"shape {tuple(found.shape)} from {tuple(given.shape)}"
        for place in range(len(given)):
            torch.testing.assert_close(function(given[place : place + 1]), found[place : place + 1])
        torch.testing.assert_close(function(given.flip(1)), found)

    def test_certain_and_even_ones_have_a_value(self) -> None:
        """Finite for one class alone and for all alike; more risk in the latter."""
        indicator = self.make()
        found = indicator.function(
            torch.stack((torch.eye(10, dtype=torch.float64)[0], torch.full((10,), 0.1).double()))
        )
        assert bool(torch.isfinite(found).all()), f"not finite: {found.tolist()}"
        certain, even = indicator.risk(found.numpy())
        assert even > certain, "small must be set where small values make a disagreement likely, and only there"
