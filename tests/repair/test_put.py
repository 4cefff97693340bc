"""Quantizers by name at sites, with their options."""

from __future__ import annotations

import pytest
import torch

from bitwright.errors import InvalidInput
from bitwright.numerics.affine import Affine
from bitwright.quantizers.base import Quantizer
from bitwright.quantizers.kind import QUANTIZERS, QuantizerKind
from bitwright.repair import REPAIRS, repair
from bitwright.settings import DEFAULTS
from bitwright.values import Policy


class OneStep(Quantizer):
    """The step that it is told."""

    def __init__(self, site, step):
        super().__init__(site)
        self.step = torch.tensor(step)

    def grid(self, bits):
        low, high = self.site.scheme.integer_range(bits)
        return Affine(self.step, torch.zeros(()), low, high)


@pytest.fixture
def named():
    kind = QuantizerKind(name="one-step", does="One step.", function=lambda site, step=1.0: OneStep(site, step))
    QUANTIZERS.register(kind)
    yield kind.name
    QUANTIZERS.remove(kind.name)


def test_a_quantizer_gets_its_options(residual, images, calibrated, named):
    graph = calibrated(residual, images)
    graph.apply(Policy.uniform(graph.sites, 4, 8))
    report = repair(graph, "put", quantizer=named, options={"step": 0.25}, sites=["conv1.weight"])
    assert [change.after for change in report.changes] == [0.25]
    assert repair(graph, "put", quantizer=named, sites=["conv2.weight"]).changes[0].after == 1.0
    with pytest.raises(InvalidInput, match=r"quantizer 'one-step' has no option 'steps'; did you mean 'step'\?"):
        repair(graph, "put", quantizer=named, options={"steps": 1})


def test_all_repairs_take_as_many_samples_as_the_settings_say():
    given = {name: about.options.get("samples") for name, about in REPAIRS.items()}
    del given["clip"]  # which runs the network for each cut that it tries
    assert set(given.values()) == {None, DEFAULTS.calibration_samples}
