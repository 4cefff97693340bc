"""The contract finds what is wrong with a quantizer: one fault each."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bitwright.numerics.affine import Affine
from bitwright.numerics.ranges import Observed
from bitwright.quantizers.base import Quantizer
from bitwright.quantizers.uniform import ActivationQuantizer, WeightQuantizer
from bitwright.testing import QuantizerContract
from bitwright.values import Scheme, Site

CHANNEL = Scheme(True, True, "channel", 0)


class ClonesInFloat(WeightQuantizer):
    def forward(self, tensor):
        return tensor.clone() if self.bits is None else super().forward(tensor)


class RoundsBesideItsGrid(WeightQuantizer):
    def quantize(self, tensor, bits):
        return super().quantize(tensor, bits) * 1.001


class OtherValuesWithGradients(WeightQuantizer):
    def quantize(self, tensor, bits):
        found = super().quantize(tensor, bits)
        return found if not torch.is_grad_enabled() else found + (tensor - tensor.detach() * (1 + 1e-6))


class TwiceTheGradient(WeightQuantizer):
    def quantize(self, tensor, bits):
        found = super().quantize(tensor, bits)
        return found + (found - found.detach())


class NoGradient(WeightQuantizer):
    def quantize(self, tensor, bits):
        return super().quantize(tensor.detach(), bits)


class CountsOneMore(WeightQuantizer):
    @property
    def expected_bits(self):
        return None if self.bits is None else self.bits + 1


class KeepsAnOldWeight(WeightQuantizer):
    def forward(self, tensor):
        if self.bits is None:
            return tensor
        if self.__dict__.setdefault("old", {}).get(self.bits) is None:
            self.old[self.bits] = super().forward(tensor)
        return self.old[self.bits]


class SharesItsCopies(WeightQuantizer):
    def __deepcopy__(self, memo):
        return self


class Step(Quantizer):
    """A learned step that other ways of failing build on."""

    def __init__(self, site, weight):
        super().__init__(site, weight)
        self.step = nn.Parameter(torch.tensor(0.25))

    def grid(self, bits):
        return Affine(self.step.detach().clone(), torch.tensor(0.0), *self.site.scheme.integer_range(bits))

    def load(self, state):
        with torch.no_grad():
            self.step.copy_(next(value for key, value in state.items() if key.startswith("scale/")))


class GridsThatChange(Step):
    def grid(self, bits):
        return Affine(self.step.detach(), torch.tensor(0.0), *self.site.scheme.integer_range(bits))


class GridsWithGradients(Step):
    def grid(self, bits):
        return Affine(self.step * 1, torch.tensor(0.0), *self.site.scheme.integer_range(bits))


class ForgetsItsState(Step):
    def load(self, state):
        pass


class StaysBehind(WeightQuantizer):
    def _apply(self, fn, recurse=True):
        return self

    def __init__(self, site, weight):
        super().__init__(site, weight)
        self.register_buffer("left", torch.zeros(1))


FAULTS = [
    (ClonesInFloat, "test_float_passes_unchanged", "the input itself must come out"),
    (
        RoundsBesideItsGrid,
        "test_forward_gives_integers_on_the_grid",
        "forward and integers on the grid at 2 bits differ",
    ),
    (OtherValuesWithGradients, "test_gradients_change_no_value", "with and without gradients at 2 bits differ"),
    (NoGradient, "test_gradients_change_no_value", "no gradient reaches the tensor at 2 bits"),
    (TwiceTheGradient, "test_straight_through_gradients", "the gradient of the tensor at 2 bits"),
    (Step, "test_straight_through_gradients", "the gradient of step at 2 bits: 0 along"),
    (CountsOneMore, "test_widths_are_counted", "expected_bits must be 2, got 3"),
    (KeepsAnOldWeight, "test_a_weight_that_changes_is_rounded_anew", "changed in place must be rounded anew"),
    (SharesItsCopies, "test_copies_are_independent", "before and after its copy was changed"),
    (GridsThatChange, "test_grids_are_constants", "the steps of a grid before and after"),
    (GridsWithGradients, "test_grids_are_constants", "must want no gradient"),
    (ForgetsItsState, "test_state_goes_to_disk_and_back", "a ForgetsItsState of its state and the quantizer"),
    (StaysBehind, "test_it_moves_between_devices", "a parameter stayed behind"),
]


@pytest.mark.parametrize(("fault", "test", "message"), FAULTS, ids=[f"{f.__name__}-{t}" for f, t, _ in FAULTS])
def test_each_fault_is_found(fault, test, message):
    class Checked(QuantizerContract):
        def make(self):
            weight = torch.randn((4, 6), generator=torch.Generator().manual_seed(1))
            return fault(Site("conv.weight", "weight", (4, 6), CHANNEL), weight)

    with pytest.raises(AssertionError, match=message):
        getattr(Checked(), test)()


def test_the_values_of_an_activation_reach_beyond_its_grid():
    class Checked(QuantizerContract):
        def make(self):
            quantizer = ActivationQuantizer(Site("relu", "activation", (1, 4), Scheme()), "minmax")
            values = torch.linspace(-1, 3, 101)
            quantizer.observe(Observed(-1.0, 3.0, values, 101))
            return quantizer

    contract = Checked()
    values = contract.values(contract.make())
    assert float(values.min()) < -1.5
    assert float(values.max()) > 3.5
