"""Policies of networks without classes against the float model: loss and SQNR at the output, with their intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bitwright.errors import InvalidData, InvalidInput
from bitwright.evaluation.evaluate import Metric, metrics_of, run
from bitwright.evaluation.intervals import bootstrap_mean, ends, paired_bootstrap, resample
from bitwright.evaluation.outputs import Array, Loss, Progress, per_sample
from bitwright.graph.batches import Batch, iterate
from bitwright.graph.graph import Graph
from bitwright.values import FLOAT, Interval, Policy, RegressionVerdict


def evaluate_regression(
    graph: Graph,
    policy: Policy,
    batches: Any,
    *,
    loss: Loss,
    metrics: Mapping[str, Metric] | None = None,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    progress: Progress | None = None,
) -> RegressionVerdict:
    """Measure a policy of a regression network against the float model.

    Outputs and targets may have any shape with the samples along the first axis. All outputs are held in memory.

    Args:
        graph: calibrated; its policy is left as it was.
        policy: what to measure.
        batches: iterable of (inputs, targets).
        loss: (outputs, targets) -> (N, ...) losses, averaged over each sample.
        metrics: name -> (outputs, targets) -> number, called once with everything together; the verdict has each as
            ``name``, and the float model's as ``float name``.
        resamples: bootstrap draws.
        seed: of the draws.
        level: confidence level of all intervals.
        progress: called with (samples done, None).

    Raises:
        InvalidInput: outputs that are no tensor, or a loss that does not give one number for each sample.
        InvalidData: too little data, outputs or losses that are not finite, or float outputs that are all the same.
        InvalidPolicy: unknown sites.
        PolicyMismatch: a policy of another graph.
    """
    policy.check(graph.sites)
    kept: list[tuple[Tensor, Tensor, Tensor]] = []
    losses: list[tuple[Array, Array]] = []
    samples = 0
    for batch in iterate(batches, graph.device, "evaluation"):
        outputs, expected = (_checked(run(graph, chosen, [batch])[0], batch) for chosen in (policy, FLOAT))
        losses.append((_losses(loss, outputs, batch[1]), _losses(loss, expected, batch[1])))
        kept.append((outputs.cpu(), expected.cpu(), batch[1].cpu()))
        samples += len(outputs)
        if progress is not None:
            progress(samples, None)
    if samples < 2:
        raise InvalidData(f"evaluation needs at least 2 samples for an interval, got {samples}")
    ours, floats = (np.concatenate(parts) for parts in zip(*losses, strict=True))
    outputs, expected = (torch.cat([part[i] for part in kept]).double() for i in (0, 1))
    signal, noise = per_sample((expected - expected.mean(0)).square()), per_sample((outputs - expected).square())
    return RegressionVerdict(
        samples,
        _decibels(signal, noise, resamples, seed, level),
        bootstrap_mean(ours, resamples, seed, level),
        bootstrap_mean(floats, resamples, seed, level),
        paired_bootstrap(ours, floats, resamples, seed, level),
        policy.name,
        metrics_of(metrics, kept) if metrics else {},
    )


def _checked(outputs: Any, batch: Batch) -> Tensor:
    inputs, targets = batch
    if not isinstance(outputs, Tensor) or outputs.dim() == 0 or len(outputs) != len(inputs[0]):
        got = f"shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else type(outputs).__name__
        raise InvalidInput(f"evaluation needs one tensor of outputs with the samples first, got {got}; wrap the model")
    if not isinstance(targets, Tensor):
        raise InvalidData("targets are needed here: batches must be (inputs, targets)")
    if not bool(torch.isfinite(outputs).all()):
        raise InvalidData("the model's outputs hold NaN or infinite values; check weights and inputs")
    return outputs


def _losses(loss: Loss, outputs: Tensor, targets: Any) -> Array:
    values = torch.as_tensor(loss(outputs, targets))
    if values.dim() == 0 or values.shape[0] != len(outputs):
        raise InvalidInput(
            f"loss must return one number per sample, shape ({len(outputs)}, ...), got shape {tuple(values.shape)}; "
            "use reduction='none'"
        )
    found = per_sample(values)
    if not np.isfinite(found).all():
        raise InvalidData("the loss is not finite; check the loss function and the targets")
    return found


def _decibels(signal: Array, noise: Array, resamples: int, seed: int, level: float) -> Interval:
    """Ten times the decadic logarithm of sum(signal) / sum(noise), both drawn anew together."""
    if not signal.any():
        raise InvalidData("the float model gives the same outputs for all inputs, so nothing can be compared")

    def ratio(index: Any) -> Array:
        with np.errstate(divide="ignore"):
            return np.asarray(10 * (np.log10(signal[index].sum(-1)) - np.log10(noise[index].sum(-1))))

    if not noise.any():
        return Interval(float("inf"), float("inf"), float("inf"), level, "none")
    value = float(ratio(np.arange(len(signal))))
    drawn = resample(ratio, len(signal), resamples, seed)
    # A resample of inputs that did not change, or that are all the same one, has no finite ratio.
    low, high = ends(drawn[np.isfinite(drawn)], level)
    return Interval(value, min(low, value), max(high, value), level, "bootstrap")
