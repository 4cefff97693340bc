"""Measuring policies so that no measurement is ever made twice: each is kept in the run store by its content."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from bitwright.errors import InvalidInput
from bitwright.evaluation import Outputs, evaluate, evaluate_regression, float_outputs
from bitwright.flow.samples import Drawn
from bitwright.graph import Graph
from bitwright.settings import Settings
from bitwright.store import RunStore, content_key
from bitwright.values import Policy, RegressionVerdict, Verdict
from bitwright.zoo import DataSets
from bitwright.zoo.dataset import Batch

if TYPE_CHECKING:
    from bitwright.flow.bench import Bench

METRIC = "metric"
"""What the user's own metric is called in a verdict."""


class Meter:
    """Verdicts of policies on one set of samples.

    Args:
        graph: calibrated.
        batches: (inputs, targets), the same ones in the same order each time.
        store: where verdicts are kept.
        identity: of the calibrated graph, see :attr:`bitwright.flow.Bench.identity`.
        data: identity of the samples.
        seed: of the bootstrap intervals.
        loss: see :func:`~bitwright.evaluation.evaluate`; part of the identity.
        metrics: likewise.

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
        loss: Callable[[Any, Any], Any] | None = None,
        metrics: Mapping[str, Callable[[Any, Any], float]] | None = None,
    ) -> None:
        self._graph, self._batches, self._store = graph, batches, store
        self._identity, self._data, self._seed = identity, data, seed
        self._loss, self._metrics = loss, metrics
        self._reference: Outputs | None = None
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
            self._reference = float_outputs(self._graph, self._batches)
        return evaluate(
            self._graph,
            policy,
            self._batches,
            loss=self._loss,
            metrics=self._metrics,
            reference=self._reference,
            seed=self._seed,
        )


def _metrics(settings: Settings) -> Mapping[str, Callable[[Any, Any], float]] | None:
    return {METRIC: settings.metric} if settings.metric is not None else None


def meters(
    graph: Graph, drawn: Drawn, data: DataSets, settings: Settings, store: RunStore, identity: str
) -> tuple[Meter, Meter]:
    """One meter for the held-out calibration samples, one for the evaluation data."""
    rest = (settings.seed, settings.loss, _metrics(settings))
    evaluation = data.evaluation.batches(settings.batch_size)
    return (
        Meter(graph, drawn.holdout, store, identity, "held-out calibration samples", *rest),
        Meter(graph, evaluation, store, identity, data.evaluation.fingerprint(), *rest),
    )


def measure_regression(bench: Bench, policy: Policy) -> RegressionVerdict:
    """Measure a policy of a network without classes on the evaluation data.

    Raises:
        InvalidInput: without a loss of the user's own.
    """
    settings = bench.settings
    if settings.loss is None:
        raise InvalidInput("regression needs a loss of your own, a function (outputs, targets) -> (N,) losses")
    return evaluate_regression(
        bench.graph,
        policy,
        bench.data.evaluation.batches(settings.batch_size),
        loss=settings.loss,
        metrics=_metrics(settings),
        seed=settings.seed,
    )
