"""The case of the debugging flow: the session, what is to be reached, and what may be done for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bitwright.graph.graph import Graph
from bitwright.sensitivity.sweep import sweep
from bitwright.session import Session
from bitwright.tasks import Task
from bitwright.values import Policy, Verdict
from bitwright.values.recipe import Recipe
from bitwright.values.sweep import Sweep
from bitwright.values.verdict import Outcome, outcome_of


@dataclass(frozen=True)
class Case:
    """What every step of the flow works with.

    Choices are made on the calibration data, by distance to float; the evaluation data only says whether the target
    holds.

    Attributes:
        session: the plain one.
        target_drop: points of the primary figure that may be lost (percent of float's for relative ones).
        repairs: options of the repairs that may be used, name -> options.
        model: that was captured, to capture it in other ways; None where it is not at hand.
    """

    session: Session
    target_drop: float
    repairs: Mapping[str, Mapping[str, Any]]
    model: Any = None

    @property
    def task(self) -> Task:
        """What the outputs mean."""
        return self.session.task

    @property
    def distance(self) -> str:
        """What choices are ranked by, in words."""
        return self.task.measure(self.task.distance).words

    def graph(self, recipe: Recipe) -> Graph:
        """The network under a recipe."""
        return self.session.under(recipe).graph

    def measure(self, recipe: Recipe, policy: Policy | None = None) -> Verdict:
        """A policy (None: the recipe's) on the calibration data, after the recipe's repairs."""
        return self.session.under(recipe).measure(policy, on="calibration")

    def swept(self, recipe: Recipe, sites: Sequence[str] | None = None) -> Sweep:
        """Each quantizer of the recipe's policy alone on, the rest in float, on the calibration data."""
        graph = self.graph(recipe)
        return sweep(graph, self.session.batches("calibration"), graph.policy, sites=sites, task=self.task)

    def judge(self, recipe: Recipe) -> Verdict:
        """The network under a recipe on the evaluation data."""
        return self.session.under(recipe).measure(on="evaluation")

    def outcome(self, verdict: Verdict) -> Outcome:
        """Whether the target holds, by the ends of the interval."""
        return outcome_of(verdict.lost, self.target_drop)

    def within(self, verdict: Verdict) -> bool:
        """Whether what was measured is within the target, wherever the ends of the interval are."""
        return verdict.lost.value <= self.target_drop + 1e-9
