"""Policies against the float model on the same inputs: accuracy, loss, KL and agreement, each with its interval."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bitwright.errors import InvalidData, PolicyMismatch
from bitwright.evaluation.intervals import bootstrap_mean, paired_bootstrap, wilson
from bitwright.evaluation.outputs import (
    Array,
    Loss,
    Outputs,
    Progress,
    Tally,
    float_outputs,
    log_probabilities,
    per_sample,
)
from bitwright.graph.batches import Batch, as_batches, iterate
from bitwright.graph.graph import Graph
from bitwright.values import FLOAT, Interval, Policy, Verdict

Metric = Callable[[Any, Any], float]

GROUP_BYTES = 1 << 25  # inputs held while float and quantized model take turns: 32 MiB


def evaluate(
    graph: Graph,
    policy: Policy,
    batches: Any,
    *,
    loss: Loss | None = None,
    metrics: Mapping[str, Metric] | None = None,
    reference: Outputs | None = None,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    progress: Progress | None = None,
) -> Verdict:
    """Measure a policy against the float model.

    Logits of shape (N, K), or (N, K, ...) with a class at each position; figures of the latter are averages over the
    positions of each sample, and all their intervals come from a bootstrap over the samples.

    Args:
        graph: calibrated; its policy is left as it was.
        policy: what to measure; ``bw.FLOAT`` is fine.
        batches: iterable of (inputs, targets), targets being class indices.
        loss: (outputs, targets) -> (N, ...) losses, averaged over each sample, or one number for the batch: batches
            then count by their samples and the loss gets no interval (``method="none"``). None for cross-entropy, in
            nats.
        metrics: name -> (outputs, targets) -> number, called once with everything together; all outputs are then held
            in memory. The verdict has each as ``name``, and the float model's as ``float name``.
        reference: from :func:`float_outputs` on the same batches, to measure many policies without running the
            float model again.
        resamples: bootstrap draws.
        seed: of the draws.
        level: confidence level of all intervals.
        progress: called with (samples done, samples in all or None when that isn't known).

    Raises:
        InvalidData: empty or too little data, targets that do not fit, or a reference made from other data.
        InvalidPolicy: unknown sites.
        PolicyMismatch: a policy or a reference of another graph.
    """
    policy.check(graph.sites)
    if reference is not None and reference.graph_hash != graph.graph_hash:
        raise PolicyMismatch(
            f"the reference was made for graph {reference.graph_hash}, this graph is {graph.graph_hash}"
        )
    quantized, float_ = Tally(loss), Tally(loss)
    divergences: list[Array] = []
    agreements: list[Array] = []
    kept: list[tuple[Tensor, Tensor, Tensor]] = []
    dense = False
    total = reference.samples if reference else None
    for outputs, expected, targets in _pairs(graph, policy, batches, reference):
        log_q, log_p = log_probabilities(outputs, targets), log_probabilities(expected, targets)
        quantized.add(outputs, targets, log_q)
        float_.add(expected, targets, log_p)
        divergences.append(per_sample((log_p.exp() * (log_p - log_q)).sum(1)))
        agreements.append(per_sample(outputs.argmax(1) == expected.argmax(1)))
        dense = outputs.dim() > 2
        if metrics:
            kept.append((outputs.cpu(), expected.cpu(), targets.cpu()))
        if progress is not None:
            progress(quantized.samples, total)
    if quantized.samples < 2:
        raise InvalidData(f"evaluation needs at least 2 samples for an interval, got {quantized.samples}")

    def mean(values: Array) -> Interval:
        return bootstrap_mean(values, resamples, seed, level)

    def share(values: Array) -> Interval:
        return mean(values) if dense else wilson(round(values.sum()), len(values), level)

    def mean_loss(tally: Tally) -> Interval:
        values = tally.losses
        return Interval(tally.loss, tally.loss, tally.loss, level, "none") if values is None else mean(values)

    return Verdict(
        samples=quantized.samples,
        accuracy=share(quantized.correct),
        float_accuracy=share(float_.correct),
        accuracy_change=paired_bootstrap(quantized.correct, float_.correct, resamples, seed, level),
        loss=mean_loss(quantized),
        float_loss=mean_loss(float_),
        # Rounding can make a divergence of nothing come out a little below zero.
        kl=mean(np.concatenate(divergences).clip(min=0)),
        agreement=share(np.concatenate(agreements)),
        policy_name=policy.name,
        metrics=metrics_of(metrics, kept) if metrics else {},
    )


def measure_many(
    graph: Graph,
    policies: Iterable[Policy],
    batches: Any,
    *,
    loss: Loss | None = None,
    metrics: Mapping[str, Metric] | None = None,
    reference: Outputs | None = None,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    progress: Progress | None = None,
) -> list[Verdict]:
    """Measure several policies on the same data; the float model runs once.

    Arguments and errors as in :func:`evaluate`, but ``progress`` is called with (policies done, policies in all).

    Returns:
        One verdict for each policy, in their order.
    """
    wanted = list(policies)
    for policy in wanted:
        policy.check(graph.sites)
    data = as_batches(batches)
    if reference is None:
        reference = float_outputs(graph, data, loss=loss)
    verdicts = []
    for policy in wanted:
        verdicts.append(
            evaluate(
                graph,
                policy,
                data,
                loss=loss,
                metrics=metrics,
                reference=reference,
                resamples=resamples,
                seed=seed,
                level=level,
            )
        )
        if progress is not None:
            progress(len(verdicts), len(wanted))
    return verdicts


def _pairs(
    graph: Graph, policy: Policy, batches: Any, reference: Outputs | None
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Quantized outputs, float outputs and targets of each batch."""
    count = 0
    logits = reference.logits if reference is not None else None
    for group in _groups(iterate(batches, graph.device, "evaluation"), alone=logits is not None):
        if reference is not None:
            for i, (_, targets) in enumerate(group):
                _check_same(reference, count + i, targets)
        if logits is None:
            expected = run(graph, FLOAT, group)
        else:
            expected = [logits[count + i].to(graph.device) for i in range(len(group))]
        for one, other, (_, targets) in zip(run(graph, policy, group), expected, group, strict=True):
            yield one, other, targets
        count += len(group)
    if reference is not None and count != len(reference.targets):
        raise InvalidData(f"the reference was made from {len(reference.targets)} batches, this data has {count}")


def _groups(batches: Iterator[Batch], alone: bool) -> Iterator[list[Batch]]:
    """Batches in groups of bounded size, so that weights are rounded once for each group."""
    group: list[Batch] = []
    size = 0
    for batch in batches:
        group.append(batch)
        size += sum(value.numel() * value.element_size() for value in batch[0])
        if alone or size > GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def run(graph: Graph, policy: Policy, group: list[Batch]) -> list[Any]:
    """The outputs of each batch under a policy."""
    with graph.applied(policy), torch.no_grad():
        return [graph(*inputs) for inputs, _ in group]


def _check_same(reference: Outputs, position: int, targets: Any) -> None:
    known = reference.targets[position] if position < len(reference.targets) else None
    same = isinstance(targets, Tensor) and known is not None and torch.equal(known, targets.cpu())
    if not same:
        raise InvalidData(
            f"batch {position} has other targets than the reference; use the same data, without shuffling"
        )


def metrics_of(metrics: Mapping[str, Metric], kept: list[tuple[Tensor, Tensor, Tensor]]) -> dict[str, float]:
    """The user's metrics of (quantized outputs, float outputs, targets) of all batches together."""
    outputs, expected, targets = (torch.cat(parts) for parts in zip(*kept, strict=True))
    found: dict[str, float] = {}
    for name, function in metrics.items():
        found[name] = float(function(outputs, targets))
        found[f"float {name}"] = float(function(expected, targets))
    return found
