from __future__ import annotations

import pytest
import torch

from bitwright.numerics.ranges import Observed
from bitwright.quantizers.uniform import ActivationQuantizer, WeightQuantizer
from bitwright.testing import QuantizerContract
from bitwright.values import Scheme, Site

SCHEMES = {
    "channel": Scheme(True, True, "channel", 0),
    "tensor": Scheme(True, True, "tensor"),
    "transposed": Scheme(True, True, "channel", 1),
    "group": Scheme(True, True, "group", 0, 4),
}


def seen(seed=0):
    values = torch.randn(999, generator=torch.Generator().manual_seed(seed)) + 0.5
    return Observed(float(values.min()), float(values.max()), values, values.numel())


def weight_of(shape=(4, 6)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


class TestActivations(QuantizerContract):
    def make(self):
        quantizer = ActivationQuantizer(Site("relu", "activation", (1, 4), Scheme()))
        quantizer.observe(seen())
        return quantizer


class TestSymmetricActivations(QuantizerContract):
    def make(self):
        quantizer = ActivationQuantizer(
            Site("relu", "activation", (1, 4), Scheme(symmetric=True, signed=True)), "minmax"
        )
        quantizer.observe(seen())
        return quantizer


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
class TestWeights(QuantizerContract):
    @pytest.fixture(autouse=True)
    def _scheme(self, scheme):
        self.scheme = scheme

    def make(self):
        return WeightQuantizer(Site("conv.weight", "weight", (4, 6), self.scheme), weight_of())
