"""The bench of the debugging flow: graphs under recipes, measured against the float model, with what it costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import torch

from bitwright.debug.apply import apply_action, apply_recipe, keep_fitted
from bitwright.graph.batches import iterate, limited
from bitwright.graph.graph import Graph
from bitwright.graph.twins import Lane
from bitwright.graph.variants import groups
from bitwright.graph.walk import Walk
from bitwright.repair import RepairReport
from bitwright.sensitivity.sweep import Tally, expected_of
from bitwright.tasks import Reference, Task, evaluate, reference
from bitwright.tasks.columns import FloatSide
from bitwright.values import FLOAT, Policy, Verdict
from bitwright.values.recipe import Action, Recipe
from bitwright.values.verdict import Outcome, outcome_of

KEPT_GRAPHS = 3
Remember = Callable[[str, Callable[[], dict[str, Any]]], dict[str, Any]]
"""(key, compute) -> what was computed under the key before, or now."""


class Bench:
    """What every step of the flow works with. The user's graph is copied, never changed.

    Choices are made on the calibration data, by distance to float; the evaluation data only says whether the target
    holds.

    Args:
        graph: captured.
        task: what the outputs mean, with its data.
        target_drop: points of the primary figure that may be lost (percent of float's for relative ones).
        samples: calibration inputs that are used; None: all.
        repairs: options of repairs, name -> options.
    """

    def __init__(
        self,
        graph: Graph,
        task: Task,
        target_drop: float,
        samples: int | None,
        repairs: Mapping[str, Mapping[str, Any]],
    ) -> None:
        self.task = task
        self.target_drop = target_drop
        self.repairs = repairs
        self.samples = samples
        self.graph_hash = graph.graph_hash
        self._source = graph
        self._graphs: dict[Recipe, Graph] = {}

    @property
    def distance(self) -> str:
        """What choices are ranked by, in words."""
        return self.task.measure(self.task.distance).words

    @cached_property
    def calibration(self) -> list[Any]:
        """The calibration data that is used, in batches."""
        batches = iterate(self.task.calibration or (), self._source.device, "debugging")
        return list(limited(batches, self.samples))

    @cached_property
    def float_graph(self) -> Graph:
        """An own copy of the user's graph, in float."""
        return self._source.copy().apply(FLOAT)

    @cached_property
    def reference(self) -> Reference:
        """The float model on the calibration data."""
        return reference(self.float_graph, self.calibration, self.task)

    @cached_property
    def float_seconds(self) -> float:
        """Processor time of one float pass over the calibration data."""
        self.reference  # noqa: B018 -- the first pass is slower
        start = time.process_time()
        with torch.no_grad():
            for inputs, _ in self.calibration:
                self.float_graph(*inputs)
        return max(time.process_time() - start, 1e-9)

    @cached_property
    def evaluation_reference(self) -> Reference:
        """The float model on the evaluation data."""
        return reference(self.float_graph, self.task.evaluation, self.task)

    def graph(self, recipe: Recipe) -> Graph:
        """The network under a recipe; those used last are kept."""
        if recipe not in self._graphs:
            self.keep(recipe, apply_recipe(self._source.copy(), recipe, self.calibration))
        return self._graphs[recipe]

    def keep(self, recipe: Recipe, graph: Graph) -> None:
        """Keep a graph that was made for a recipe."""
        while len(self._graphs) >= KEPT_GRAPHS:
            self._graphs.pop(next(iter(self._graphs)))
        self._graphs[recipe] = graph

    def with_fitted(self, recipe: Recipe) -> Recipe:
        """The recipe with what it came to, if its network is among those that are kept."""
        graph = self._graphs.get(recipe)
        return recipe if graph is None else keep_fitted(graph, recipe)

    def tried(self, recipe: Recipe, action: Action) -> tuple[Graph, RepairReport | None]:
        """A copy of the network under a recipe, with one more action, and what the action reports.

        Raises:
            InvalidInput: the action refuses.
        """
        graph = self.graph(recipe).copy()
        return graph, apply_action(graph, action, self.calibration)

    def measure(self, graph: Graph, policy: Policy | None = None) -> Verdict:
        """A policy (None: the one in force) on the calibration data."""
        return evaluate(graph, graph.policy if policy is None else policy, self.calibration, reference=self.reference)

    def judge(self, recipe: Recipe) -> Verdict:
        """The network under a recipe on the evaluation data."""
        graph = self.graph(recipe)
        return evaluate(graph, graph.policy, self.task.evaluation, reference=self.evaluation_reference)

    def outcome(self, verdict: Verdict) -> Outcome:
        """Whether the target holds, by the ends of the interval."""
        return outcome_of(verdict.lost, self.target_drop)

    def within(self, verdict: Verdict) -> bool:
        """Whether what was measured is within the target, wherever the ends of the interval are."""
        return verdict.lost.value <= self.target_drop + 1e-9

    def compare_at(self, recipe: Recipe, site: str, actions: list[Action]) -> list[float]:
        """Distance to float of the whole policy after each of some actions that concern one site's quantizer alone.

        The network in front of the site is run once for all of them. Actions start from what the action before left,
        so those that replace a range by another kind of range come first.
        """
        graph = self.graph(recipe).copy()
        tallies, floats = [Tally(self.task) for _ in actions], FloatSide(self.task)
        for number, group in enumerate(groups(graph, self.calibration)):
            if number:  # the actions have changed the site's quantizer
                graph = self.graph(recipe).copy()
            walk = Walk(graph.module)
            expected = [expected_of(graph, self.task, inputs, targets) for inputs, targets in group]
            for one in expected:
                floats.add(one)
            lane = Lane(walk, [inputs for inputs, _ in group])
            with torch.no_grad():
                lane.to(walk.start(graph.linked(site)))
                for action, tally in zip(actions, tallies, strict=True):
                    apply_action(graph, action, self.calibration)
                    graph.apply(graph.policy)  # the steps of sites that are linked with this one follow
                    for one, outputs in zip(expected, lane.outputs(), strict=True):
                        tally.add(one, outputs)
        return [tally.distance(floats) for tally in tallies]
