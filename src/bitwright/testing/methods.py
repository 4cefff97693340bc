"""The contract of a sensitivity method."""

from __future__ import annotations

import numpy as np
import torch

from bitwright.sensitivity.evidence import Evidence
from bitwright.sensitivity.method import Method, Scores
from bitwright.tasks import Classification
from bitwright.testing.samples import Described, batches, calibrated
from bitwright.values import Policy


class MethodContract(Described[Method]):
    """What every sensitivity method must do; derive from it and write :meth:`make`."""

    def _scores(self, bits: tuple[int, ...] = (2, 4, 8)) -> Scores:
        method = self.make()
        return method.function(Evidence(calibrated(), batches(), bits, (method,), Classification()))

    def test_it_says_what_it_is(self) -> None:
        """Name, sentence and unit."""
        super().test_it_says_what_it_is()
        assert self.make().unit, "a method must say what its numbers count"

    def test_every_site_has_a_finite_score_at_every_width(self) -> None:
        """With standard errors of the same shape, where there are any."""
        found, sites = self._scores(), calibrated().sites
        assert found.harm.shape == (len(sites), 3), f"harm must be (sites, widths), got {found.harm.shape}"
        assert np.isfinite(found.harm).all(), "scores must be finite"
        if found.standard_error is not None:
            assert found.standard_error.shape == found.harm.shape, "standard errors must have the scores' shape"
            assert (found.standard_error >= 0).all(), "standard errors must not be negative"
        for name, values in found.parts.items():
            assert len(values) == len(sites), f"the part '{name}' must have a row for each site"

    def test_fewer_bits_harm_more(self) -> None:
        """Over all sites together; single sites may differ by chance."""
        harm = self._scores().harm.sum(0)
        assert harm[0] > harm[2], f"2 bits must harm more than 8, got {harm[0]:.3g} and {harm[2]:.3g}"

    def test_the_same_again(self) -> None:
        """To the last bit."""
        np.testing.assert_array_equal(self._scores().harm, self._scores().harm)

    def test_other_widths_change_no_score(self) -> None:
        """What 4 bits harm does not depend on which other widths are scored.

        Where harms go through a margin model this holds for its variances; the samples' shares may pool the widths.
        """
        alone, among = (
            found.harm if found.model is None else found.model.variances
            for found in (self._scores((4,)), self._scores())
        )
        np.testing.assert_allclose(alone[:, 0], among[:, 1], rtol=1e-4, atol=1e-12)

    def test_the_graph_is_left_as_it_was(self) -> None:
        """Its policy and its outputs."""
        graph, method = calibrated(), self.make()
        graph.apply(Policy.uniform(graph.sites, 4, 8))
        inputs = batches()[0][0]
        before = graph(inputs)
        method.function(Evidence(graph, batches(), (2, 8), (method,), Classification()))
        assert graph.policy == Policy.uniform(graph.sites, 4, 8), "the current policy must stay"
        assert torch.equal(graph(inputs), before), "the outputs must stay"
