"""The session: a captured network under a recipe, its task, the samples drawn, and the store.

Whatever measures does it here: ``session.under(recipe).measure(policy, on="holdout")``. Each measurement is made once
and kept under a key of its content, so that a job that was stopped, killed or repeated goes on from what it has.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch

from bitwright.data import DataSets
from bitwright.graph import Graph, calibrate, capture
from bitwright.graph.batches import Checked, iterate
from bitwright.graph.calling import as_given
from bitwright.repair import RepairReport, functions_of
from bitwright.repair.apply import apply_action, apply_recipe, keep_fitted
from bitwright.session.samples import Samples, draw
from bitwright.session.steps import Steps
from bitwright.settings import DEFAULTS, Settings
from bitwright.store import Memory, Store, content_key
from bitwright.tasks import Reference, Task, evaluate, reference, task_for
from bitwright.values import FLOAT, Policy, Sites, Verdict
from bitwright.values.fitted import FITTED_VERSION, Fitted
from bitwright.values.recipe import Action, Recipe
from bitwright.version import VERSION

KEPT = 3
"""Networks under different recipes that are held in memory, beside the plain one."""


class Session:
    """A captured network under a recipe, and everything that is needed to measure it.

    The graph that it was made from is copied, never changed. Sessions under other recipes come from :meth:`under` and
    :meth:`then`; they share the data, the float model's outputs and the store.

    Attributes:
        recipe: what was done to the network; for the plain session ranges alone.
        task: what the outputs mean.
        samples: the data, in parts: ``"calibration"``, ``"scores"``, ``"holdout"``, ``"evaluation"``.
        settings: of the job.
        store: where everything that is measured is kept.
        steps: told how far the work is.
        measured: verdicts that were measured, in all sessions that share the data.
        reused: verdicts that the store had.
    """

    def __init__(
        self,
        graph: Graph,
        task: Task,
        samples: Samples,
        settings: Settings = DEFAULTS,
        store: Store | None = None,
        steps: Steps | None = None,
    ) -> None:
        """Make the plain session of a captured graph; :meth:`open` makes it from a model and a job's data."""
        self.recipe = Recipe(FLOAT, settings.ranges)
        self.task, self.samples, self.settings = task, samples, settings
        self.store: Store = Memory() if store is None else store
        self.steps = steps or Steps()
        self.plain = self
        self.measured = self.reused = 0
        self._source = graph
        self._given = ""
        self._graph: Graph | None = None
        self._kept: dict[Recipe, Session] = {}
        self._references: dict[str, Reference] = {}

    @classmethod
    def open(cls, model: Any, data: DataSets, settings: Settings, store: Store, steps: Steps) -> Session:
        """Draw the samples, capture the model, set the ranges.

        Args:
            model: in evaluation mode, or an exported program.
            data: calibration and evaluation data.
            settings: of the job.
            store: where everything that is measured is kept.
            steps: told how far it is.

        Raises:
            InvalidInput: a model that cannot be used, e.g. in training mode, or with NaN in its weights.
            InvalidData: data that cannot be used, or too little of it.
            CaptureError: torch.export stopped.
        """
        settings = settings.model_copy(update={"quantizer": settings.placement})
        with steps.step("draw samples"):
            samples = draw(data, settings)
        graph = _captured(model, samples, settings, steps)
        task = task_for(graph, samples.scores, settings.task, settings.loss, settings.metric)
        return cls(graph, task, samples, settings, store, steps)._calibrated()

    def placed_by(self, name: str, model: Any) -> Session:
        """The plain session of the same model and samples with sites where another placement puts them."""
        calling = self._source.calling
        settings = self.settings.model_copy(update={"quantizer": name, "returns": calling.returns})
        graph = _captured(model, self.samples, settings, self.steps, calling.again)
        return Session(graph, self.task, self.samples, settings, self.store, self.steps)._calibrated()

    def of(self, model: Any) -> Session:
        """The plain session of another model for the same task, on the same samples."""
        graph = _captured(model, self.samples, self.settings, self.steps)
        return Session(graph, self.task, self.samples, self.settings, self.store, self.steps)._calibrated()

    def _calibrated(self) -> Session:
        with self.steps.step("calibrate", self.samples.calibration.samples):
            self.graph  # noqa: B018 -- made when it is first asked for
        return self

    @cached_property
    def identity(self) -> str:
        """Names the network under its recipe by content: model, placement, calibration data, task and settings."""
        if self is self.plain:
            return content_key(
                bitwright=VERSION,
                sites=self._source.sites.to_dict(),
                ranges=self.recipe.ranges,
                samples=self.samples.identity,
                seed=self.settings.seed,
                device=str(self._source.device),
                task=self.task.identity,
            )
        functions = functions_of(self.recipe.actions)
        return content_key(
            session=self.plain.identity, recipe=self.recipe.digest, functions=functions, fitted=self._given
        )

    # Networks under recipes.

    @property
    def graph(self) -> Graph:
        """The network under the recipe, calibrated, with the recipe's policy applied when it is first given."""
        if self._graph is None:
            self._graph = self._made()
        return self._graph

    def _made(self) -> Graph:
        batches, recipe, seed = self.samples.calibration, self.recipe, self.settings.seed
        if self is self.plain:
            return calibrate(self._source.copy(), batches, ranges=recipe.ranges, seed=seed)
        with self.steps.step("apply the recipe", len(recipe.actions) or 1) as tell:
            done = 0

            def told(action: Action, report: RepairReport | None) -> None:
                nonlocal done
                done += 1
                tell(done)

            same = recipe.ranges == self.plain.recipe.ranges
            start = (
                self.plain.graph.copy() if same else calibrate(self._source.copy(), batches, recipe.ranges, seed=seed)
            )
            recalled = self._recalled(recipe)
            watch = recalled.fitted is None or recalled.fitted.rescales
            return apply_recipe(start, recalled, batches if watch else None, told, calibrated=True, task=self.task)

    def under(self, recipe: Recipe) -> Session:
        """The session of the same network under another recipe; those used last are held in memory."""
        if recipe == self.recipe:
            return self
        plain = self.plain
        if recipe == plain.recipe:
            return plain
        given = "" if recipe.fitted is None else recipe.fitted.checksum
        found = plain._kept.get(recipe)
        if found is None or (given and given != found._given):
            found = self._beside(recipe, given)
        return found.keep()

    def then(self, action: Action) -> tuple[Session, RepairReport | None]:
        """The session with one more action, and what the action reports; :meth:`keep` holds it in memory.

        Raises:
            InvalidInput: the action refuses.
        """
        graph = self.graph.copy()
        report = apply_action(graph, action, self.samples.calibration, self.task)
        return self.became(graph, action), report

    def became(self, graph: Graph, action: Action) -> Session:
        """The session of a copy of this network that an action has changed."""
        made = self._beside(self.recipe.then(action.kind, **action.options), self._given)
        made._graph = graph
        return made

    def keep(self) -> Session:
        """Hold this session's network in memory, as one of those used last; the session itself."""
        kept = self.plain._kept
        kept.pop(self.recipe, None)
        while len(kept) >= KEPT:
            kept.pop(next(iter(kept)))
        kept[self.recipe] = self
        return self

    def _beside(self, recipe: Recipe, given: str) -> Session:
        made = Session(self._source, self.task, self.samples, self.settings, self.store, self.steps)
        made.plain, made.recipe, made._given = self.plain, recipe, given
        return made

    @property
    def fitted(self) -> Recipe:
        """The recipe with what it came to; the store keeps that, too."""
        if self.recipe.fitted is not None or self is self.plain:
            return self.recipe
        place = content_key(fitted=FITTED_VERSION, session=self.identity)

        def take() -> dict[str, Any]:
            made = keep_fitted(self.graph, self.recipe).fitted
            assert made is not None
            return made.to_dict()

        return self.recipe.with_fitted(Fitted.from_dict(self.store.get_or_compute(place, "fitted", take)))

    def _recalled(self, recipe: Recipe) -> Recipe:
        """The recipe with what was fitted, if it has it or the store does."""
        if recipe.fitted is not None:
            return recipe
        found = self.store.get(content_key(fitted=FITTED_VERSION, session=self.identity))
        return recipe if found is None else recipe.with_fitted(Fitted.from_dict(found))

    # Measuring.

    def measure(self, policy: Policy | None = None, on: str = "holdout") -> Verdict:
        """A policy against the float model on a part of the samples: measured once, then taken from the store.

        Args:
            policy: None: the recipe's.
            on: the part.

        Raises:
            InvalidData: samples that cannot be evaluated.
            InvalidPolicy: unknown sites.
            StoreError: the store cannot be written.
        """
        verdict = self._measured(policy, on, wait=True)
        assert verdict is not None
        return verdict

    def share(self, policy: Policy, on: str = "holdout") -> None:
        """Measure a policy unless another process of the job is measuring it.

        Processes that first share all policies of a list, and then measure them, have divided the list among them.
        """
        self._measured(policy, on, wait=False)

    def _measured(self, policy: Policy | None, on: str, wait: bool) -> Verdict | None:
        chosen = self.recipe.policy if policy is None else policy
        same = not self.recipe.actions and not self._given and self.recipe.ranges == self.plain.recipe.ranges
        if self is not self.plain and same:
            return self.plain._measured(chosen, on, wait)
        chosen.check(self._source.sites)
        key = content_key(
            graph=self.identity, policy=chosen, data=self.samples.identity_of(on), seed=self.settings.seed
        )
        made: list[Verdict] = []

        def compute() -> dict[str, Any]:
            reference, seed = self.reference(on), self.settings.seed
            made.append(evaluate(self.graph, chosen, self.batches(on), reference=reference, seed=seed))
            return made[0].to_dict()

        take = self.store.get_or_compute if wait else self.store.attempt
        found = take(key, "verdict", compute)
        if found is None:
            return None
        self.plain.measured += len(made)
        self.plain.reused += int(wait and not made)
        return made[0] if made else dataclasses.replace(Verdict.from_dict(found), policy_name=chosen.name)

    @property
    def sites(self) -> Sites:
        """The sites of the network as it was captured."""
        return self._source.sites

    def batches(self, on: str) -> Checked:
        """The batches of a part of the samples, checked once."""
        return self.samples.part(on)

    def reference(self, on: str) -> Reference:
        """The float model on a part of the samples: the network as it was captured, whatever the recipe."""
        known = self.plain._references
        if on not in known:
            known[on] = reference(self._source, self.batches(on), self.task)
        return known[on]

    def remember(self, kind: str, compute: Callable[[], dict[str, Any]], **parts: Any) -> dict[str, Any]:
        """What was computed under these parts of a key before, or now.

        Args:
            kind: a word for the store's records.
            compute: makes plain data.
            **parts: whatever the result depends on beside the session, see :func:`~bitwright.store.content_key`.
        """
        return self.store.get_or_compute(content_key(graph=self.identity, kind=kind, **parts), kind, compute)

    @cached_property
    def float_seconds(self) -> float:
        """Processor seconds of one float pass over the calibration samples."""
        if self is not self.plain:
            return self.plain.float_seconds
        self.reference("calibration")  # the first pass is slower
        start = time.process_time()
        with self._source.applied(FLOAT), torch.no_grad():
            for inputs, _ in iterate(self.batches("calibration"), self._source):
                self._source(*inputs)
        return max(time.process_time() - start, 1e-9)


def _captured(
    model: Any,
    samples: Samples,
    settings: Settings,
    steps: Steps,
    given: Callable[[tuple[Any, ...]], Any] = as_given,
) -> Graph:
    with steps.step("capture"):
        example, *others = map(given, samples.examples)
        return capture(model, example, quantizer=settings.quantizer, returns=settings.returns, others=others)
