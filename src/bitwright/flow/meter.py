"""Measuring policies so that no measurement is ever made twice: each is kept in the run store by its content."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from bitwright.data import DataSets
from bitwright.data.dataset import Batch
from bitwright.flow.samples import Drawn
from bitwright.graph import Graph
from bitwright.settings import Settings
from bitwright.store import RunStore, content_key
from bitwright.tasks import Reference, Task, evaluate, reference
from bitwright.values import Policy, Verdict


class Meter:
    """Verdicts of policies on one set of samples.

    Args:
        graph: calibrated.
        batches: (inputs, targets), the same ones in the same order each time.
        store: where verdicts are kept.
        identity: of the calibrated graph, see :attr:`bitwright.flow.Bench.identity`.
        data: identity of the samples.
        seed: of the bootstrap intervals.
        task: what the outputs mean; part of the identity.

    Attributes:
        measured: verdicts made by this object.
        reused: verdicts found in the store.
    """

    def __init__(
        self,
        graph: Graph,
        batches: Iterable[Batch],
        store: RunStore,
        identity: str,
        data: str,
        seed: int,
        task: Task,
    ) -> None:
        self._graph, self._batches, self._store = graph, batches, store
        self._identity, self._data, self._seed = identity, data, seed
        self._task = task
        self._reference: Reference | None = None
        self.measured = 0
        self.reused = 0

    def __call__(self, policy: Policy) -> Verdict:
        """Measure a policy, or take what the store has.

        Raises:
            InvalidData: samples that cannot be evaluated.
            InvalidPolicy: unknown sites.
            StoreError: the store cannot be written.
        """
        policy.check(self._graph.sites)
        key = content_key(graph=self._identity, policy=policy, data=self._data, seed=self._seed)
        found = self._store.get(key)
        if found is not None:
            self.reused += 1
        else:
            found = self._measure(policy).to_dict()
            self._store.put(key, "verdict", found)
            self.measured += 1
        return dataclasses.replace(Verdict.from_dict(found), policy_name=policy.name)

    def _measure(self, policy: Policy) -> Verdict:
        if self._reference is None:
            self._reference = reference(self._graph, self._batches, self._task)
        return evaluate(self._graph, policy, self._batches, reference=self._reference, seed=self._seed)


def meters(
    graph: Graph, drawn: Drawn, data: DataSets, task: Task, settings: Settings, store: RunStore, identity: str
) -> tuple[Meter, Meter]:
    """One meter for the held-out calibration samples, one for the evaluation data."""
    evaluation = data.evaluation.batches(settings.batch_size)
    return (
        Meter(graph, drawn.holdout, store, identity, "held-out calibration samples", settings.seed, task),
        Meter(graph, evaluation, store, identity, data.evaluation.fingerprint(), settings.seed, task),
    )
