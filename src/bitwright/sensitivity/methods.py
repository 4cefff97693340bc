"""FIT and Margin-FIT: gradients at the sites times rounding noise, both from one forward pass over the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch.nn.functional as functional
from torch import Tensor

from bitwright.errors import InvalidData, InvalidInput, nearest
from bitwright.graph.batches import as_batches, check_targets, iterate
from bitwright.graph.graph import Graph
from bitwright.sensitivity.gradients import squared_norms
from bitwright.sensitivity.noise import checked_widths, noise_of_sites
from bitwright.values import FLOAT, MarginModel, SensitivityTable

METHODS: tuple[str, ...] = ("fit", "margin-fit", "noise")
MICRO_BATCH = 32  # samples whose activations are held for the backward pass at once
MINIMUM = 32  # samples before a tolerance can stop the collection

Loss = Callable[[Any, Any], Tensor]
Progress = Callable[[int, int | None], None]


def per_sample_loss(loss: Loss | None, outputs: Any, targets: Any) -> Tensor:
    """(N,) losses; without a loss function cross-entropy, averaged over positions.

    Raises:
        InvalidData: targets that do not fit the outputs.
        InvalidInput: a loss function that does not give one number per sample.
    """
    if loss is None:
        if not isinstance(outputs, Tensor) or outputs.dim() < 2:
            raise InvalidInput("the default loss needs logits of shape (batch, classes, ...); pass loss=")
        check_targets(targets, outputs.shape[1])
        values = functional.cross_entropy(outputs, targets, reduction="none")
        return values.flatten(1).mean(1) if values.dim() > 1 else values
    values = loss(outputs, targets)
    count = len(outputs) if isinstance(outputs, Tensor) else None
    if values.dim() == 0 or (count is not None and values.shape[0] != count):
        raise InvalidInput(
            f"loss must return one number per sample, shape ({count},), got shape {tuple(values.shape)}; "
            "use reduction='none': the mean's gradient is another, wrong, number"
        )
    return values.flatten(1).mean(1) if values.dim() > 1 else values


def margins(outputs: Any) -> Tensor:
    """(N,) difference of the two largest logits of each sample."""
    if not isinstance(outputs, Tensor) or outputs.dim() != 2 or outputs.shape[1] < 2:
        shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise InvalidInput(
            f"margin-fit needs logits of shape (batch, classes) with at least 2 classes, got {shape}; use method='fit'"
        )
    top = outputs.topk(2, dim=1).values
    return top[:, 0] - top[:, 1]


def sensitivity(
    graph: Graph,
    batches: Any,
    method: str = "margin-fit",
    bits: Sequence[int] = (2, 3, 4, 6, 8),
    *,
    noise: str = "measured",
    loss: Loss | None = None,
    samples: int | None = None,
    tolerance: float | None = None,
    progress: Progress | None = None,
) -> SensitivityTable:
    """Score every site at every width with one method; see :func:`sensitivities` for the arguments."""
    return sensitivities(
        graph, batches, (method,), bits, noise=noise, loss=loss, samples=samples, tolerance=tolerance, progress=progress
    )[0]


def sensitivities(
    graph: Graph,
    batches: Any,
    methods: Sequence[str] = ("fit", "margin-fit"),
    bits: Sequence[int] = (2, 3, 4, 6, 8),
    *,
    noise: str = "measured",
    loss: Loss | None = None,
    samples: int | None = None,
    tolerance: float | None = None,
    progress: Progress | None = None,
) -> list[SensitivityTable]:
    """Score every site at every width with several methods that share their forward passes.

    ``"fit"`` (Zandonati et al., ICLR 2023): harm[s, b] = Tr(F_s) E[d_{s,b}^2], with the empirical Fisher trace
    Tr(F_s) = (1/N) sum_n ||grad_{t_s} l_n||^2 of per-sample gradients; a policy's score is the sum.
    ``"margin-fit"``: the same with the margin m_n between the two largest logits instead of the loss; the
    table predicts the share of predictions that flip, mean_n Phi(-m_n / sqrt(sum_s ||grad m_n||^2 E[d^2])).
    ``"noise"``: E[d^2] alone, a baseline.

    Args:
        graph: calibrated; its policy is left as it was.
        batches: iterable of (inputs, targets); margin-fit needs no targets.
        methods: which tables to make.
        bits: widths to score.
        noise: ``"measured"`` or ``"uniform"``, see :func:`noise_of_sites`.
        loss: (outputs, targets) -> (N,) losses; None for cross-entropy.
        samples: stop after so many inputs; None uses all.
        tolerance: stop once the relative standard error of every site's trace is below this.
        progress: called with (samples done, samples asked for or None).

    Returns:
        One table for each method, in their order.

    Raises:
        InvalidInput: unknown method, not calibrated, or outputs that don't suit the method.
        InvalidData: no data, or targets outside the classes.
    """
    for method in methods:
        if method not in METHODS:
            raise InvalidInput(f"method must be one of {', '.join(METHODS)}, got '{method}'{nearest(method, METHODS)}")
    widths = checked_widths(bits)
    table_noise = noise_of_sites(graph, widths, noise)
    gradients = [method for method in methods if method != "noise"]
    collected, all_margins = (
        _collect(graph, batches, gradients, loss, samples, tolerance, progress) if gradients else ({}, np.empty(0))
    )
    note = f"noise model: {noise}"
    tables = []
    for method in methods:
        if method == "noise":
            tables.append(SensitivityTable(
                "noise", "mean squared rounding error", graph.sites.names, widths, table_noise,
                graph_hash=graph.graph_hash, notes=(note,),
            ))
            continue
        traces = collected[method]
        count = len(traces)
        trace, error = traces.mean(0), traces.std(0, ddof=1) / np.sqrt(count)
        parts = {"trace": trace, "trace_standard_error": error}
        if method == "fit":
            tables.append(SensitivityTable(
                "fit", "FIT: Fisher trace x mean squared rounding error (nats^2)", graph.sites.names, widths,
                trace[:, None] * table_noise, error[:, None] * table_noise, count, graph.graph_hash,
                parts=parts, notes=(note,),
            ))
        else:
            tables.append(_margin_table(graph, widths, table_noise, traces, all_margins, parts, note))
    return tables


def _margin_table(
    graph: Graph, widths: tuple[int, ...], noise: Any, traces: Any, all_margins: Any, parts: dict[str, Any], note: str
) -> SensitivityTable:
    model = MarginModel(all_margins, traces, noise)
    count = len(traces)
    harm, error = np.zeros_like(noise), np.zeros_like(noise)
    for row in range(noise.shape[0]):
        for column in range(noise.shape[1]):
            chances = model.flip_chances(traces[:, row] * noise[row, column])
            harm[row, column] = chances.mean()
            error[row, column] = chances.std(ddof=1) / np.sqrt(count)
    return SensitivityTable(
        "margin-fit", "share of predictions that flip", graph.sites.names, widths, harm, error, count,
        graph.graph_hash, model, parts, (note,),
    )


def _collect(
    graph: Graph,
    batches: Any,
    methods: Sequence[str],
    loss: Loss | None,
    samples: int | None,
    tolerance: float | None,
    progress: Progress | None,
) -> tuple[dict[str, Any], Any]:
    """Per-sample squared gradient norms (N, S) for each method, and the margins (N,)."""
    found: dict[str, list[Any]] = {method: [] for method in methods}
    found_margins: list[Any] = []
    done = 0
    with graph.applied(FLOAT):
        for inputs, targets in _micro_batches(graph, batches, samples):
            def fit(outputs: Any, targets: Any = targets) -> Tensor:
                return per_sample_loss(loss, outputs, targets)

            def margin(outputs: Any) -> Tensor:
                values = margins(outputs)
                found_margins.append(values.detach().double().cpu().numpy())
                return values

            scores = [fit if method == "fit" else margin for method in methods]
            for method, norms in zip(methods, squared_norms(graph, inputs, *scores), strict=True):
                found[method].append(norms.cpu().numpy())
            done += inputs[0].shape[0]
            if progress is not None:
                progress(done, samples)
            if tolerance is not None and done >= MINIMUM and _settled(found, tolerance):
                break
    if done < 2:
        raise InvalidData(f"sensitivity needs at least 2 samples to estimate a standard error, got {done}")
    stacked = {method: np.concatenate(parts) for method, parts in found.items()}
    for method, values in stacked.items():
        if not np.isfinite(values).all():
            site = graph.sites.names[int(np.argwhere(~np.isfinite(values))[0][1])]
            raise InvalidData(f"the gradients of {method} at site '{site}' are not finite; check inputs and loss")
    return stacked, np.concatenate(found_margins) if found_margins else np.empty(0)


def _settled(found: dict[str, list[Any]], tolerance: float) -> bool:
    for parts in found.values():
        values = np.concatenate(parts)
        mean = values.mean(0)
        error = values.std(0, ddof=1) / np.sqrt(len(values))
        if (error > tolerance * np.maximum(mean, 1e-300)).any():
            return False
    return True


def _micro_batches(graph: Graph, batches: Any, samples: int | None) -> Any:
    left = samples
    for inputs, targets in iterate(as_batches(batches), graph.device, "sensitivity"):
        for start in range(0, inputs[0].shape[0], MICRO_BATCH):
            if left is not None and left <= 0:
                return
            stop = start + MICRO_BATCH if left is None else start + min(MICRO_BATCH, left)
            part = tuple(value[start:stop] for value in inputs)
            if left is not None:
                left -= part[0].shape[0]
            yield part, targets[start:stop] if isinstance(targets, Tensor) else targets
