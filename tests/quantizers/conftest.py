from __future__ import annotations

import pytest
import torch

from bitwright.numerics.ranges import Observed
from bitwright.quantizers.uniform import ActivationQuantizer, WeightQuantizer
from bitwright.values import Scheme, Site

WEIGHT = Scheme(symmetric=True, signed=True, granularity="channel", axis=0)


def weight_site(shape, scheme=WEIGHT, name="conv.weight"):
    return Site(name, "weight", tuple(shape), scheme)


@pytest.fixture
def make_weight():
    def make(shape=(4, 6), scheme=WEIGHT, seed=0, ranges="mse"):
        weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        return WeightQuantizer(weight_site(shape, scheme), weight, ranges)

    return make


@pytest.fixture
def make_activation():
    def make(low=-1.0, high=3.0, ranges="minmax", scheme=None, values=None):
        quantizer = ActivationQuantizer(Site("relu", "activation", (1, 4), scheme or Scheme()), ranges)
        values = torch.linspace(low, high, 1001) if values is None else values
        quantizer.observe(Observed(float(values.min()), float(values.max()), values, values.numel()))
        return quantizer

    return make
