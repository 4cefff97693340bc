"""The contract of a repair."""

from __future__ import annotations

import json
import math
from typing import Any

import torch

from bitwright.errors import InvalidInput
from bitwright.graph import calibrate
from bitwright.repair import Repair, RepairReport, put_fitted, take_fitted
from bitwright.testing.samples import Described, batches, calibrated, captured
from bitwright.values import FLOAT, Policy


class RepairContract(Described[Repair]):
    """What every repair must do; derive from it and write :meth:`make`.

    Attributes:
        options: that the repair is tried with.
        tolerance: share of the largest float output by which float outputs may move.
    """

    options: dict[str, Any] = {}
    tolerance: float = 1e-4

    def _mended(self) -> tuple[Any, Policy, RepairReport]:
        graph = calibrated()
        policy = Policy.uniform(graph.sites, 4, 8)
        graph.apply(policy)
        return graph, policy, self.make()(graph, batches(), **self.options)

    def test_it_says_what_it_is(self) -> None:
        """Name, sentence, needs, changes, costs, and options with defaults."""
        repair = self.make()
        super().test_it_says_what_it_is()
        assert all((repair.needs, repair.changes, repair.costs)), "say what it needs, changes and costs"
        assert set(self.options) <= set(repair.options), "options are parameters of the function"
        message = ""
        try:
            repair.check_options("repair", ["nothing-like-it"])
        except InvalidInput as error:
            message = str(error)
        assert "has no option 'nothing-like-it'" in message, "unknown options are refused"

    def test_the_float_network_stays_what_it_is(self) -> None:
        """Whatever is mended, in float the outputs are the same."""
        inputs = batches()[0][0]
        before = calibrated().apply(FLOAT)(inputs)
        after = self._mended()[0].apply(FLOAT)(inputs)
        moved = float((after - before).abs().max() / before.abs().max())
        assert moved <= self.tolerance, f"float outputs moved by {moved:.1e} of their largest"

    def test_what_it_reports(self) -> None:
        """Finite figures that survive JSON, under its name, with the time that it took."""
        report = self._mended()[2]
        assert report.name == self.make().name
        assert report.needs, "say what it worked with"
        assert report.seconds > 0
        for change in report.changes:
            assert math.isfinite(change.before), f"{change.site}: {change.what} was {change.before}"
            assert math.isfinite(change.after), f"{change.site}: {change.what} is {change.after}"
        assert RepairReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report

    def test_the_graph_knows_of_it_and_keeps_its_policy(self) -> None:
        """And forgets it with the next calibration, unless it lasts."""
        graph, policy, _ = self._mended()
        assert graph.policy == policy, "the current policy must stay"
        assert graph.repairs == [self.make().name]
        calibrate(graph, batches())
        assert graph.repairs == ([self.make().name] if self.make().lasting else [])

    def test_the_same_again(self) -> None:
        """To the last bit."""
        inputs = batches()[0][0]
        assert torch.equal(self._mended()[0](inputs), self._mended()[0](inputs))

    def test_it_is_kept_in_a_recipe(self) -> None:
        """What it came to, taken off the graph and put on another capture, gives the same outputs to the last bit."""
        graph, policy, _ = self._mended()
        other = captured()
        put_fitted(other, take_fitted(graph, policy, "recipe"), batches())
        inputs = batches()[1][0]
        assert torch.equal(other.apply(policy)(inputs), graph(inputs)), "under the policy"
        assert torch.equal(other.apply(FLOAT)(inputs), graph.apply(FLOAT)(inputs)), "in float"
