"""The contract of a placement."""

from __future__ import annotations

from typing import Any

import torch

from bitwright.graph.pt2e import PlacementKind, quiet
from bitwright.testing.samples import Described, Network, batches, calibrated, captured
from bitwright.values import FLOAT, Policy


class PlacementContract(Described[PlacementKind]):
    """What every placement must do; derive from it and write :meth:`make`."""

    def _quantizer(self) -> Any:
        with quiet():
            return self.make().function()

    def test_sites_are_named_and_stable(self) -> None:
        """The same names, kinds and schemes at each capture, and some weights among them."""
        first, again = (captured(self._quantizer()).sites for _ in range(2))
        assert first == again, "sites must be the same at each capture"
        assert first.weights, "a placement must quantize some weights"
        assert all(site.shape for site in first.weights)

    def test_float_is_the_network(self) -> None:
        """Without a policy the graph computes what the model computes."""
        inputs = batches()[0][0]
        with torch.no_grad():
            wanted = Network().eval()(inputs)
            found = calibrated(self._quantizer()).apply(FLOAT)(inputs)
        assert float((found - wanted).abs().max()) <= 1e-5 * float(wanted.abs().max())

    def test_more_bits_come_nearer(self) -> None:
        """Errors of the outputs fall from 4 to 8 bits, and are not 0."""
        inputs = batches()[0][0]
        graph = calibrated(self._quantizer())
        with torch.no_grad():
            wanted = graph(inputs)
            errors = []
            for bits in (4, 8):
                graph.apply(Policy.uniform(graph.sites, bits, bits))
                errors.append(float((graph(inputs) - wanted).square().mean()))
        assert errors[0] > errors[1] > 0, f"mean squared errors at 4 and 8 bits: {errors}"
