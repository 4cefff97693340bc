"""FIT and Margin-FIT: gradients at the sites times rounding noise, both from one forward pass over the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch.nn.functional as functional
from torch import Tensor

from bitwright.errors import InvalidData, InvalidInput, nearest
from bitwright.graph.batches import as_batches, check_target_shape, check_targets, iterate
from bitwright.graph.graph import Graph
from bitwright.sensitivity.gradients import gradient_moments
from bitwright.sensitivity.noise import check_noise, checked_widths, noise_of_sites
from bitwright.sensitivity.rounding_errors import RoundingErrors
from bitwright.sensitivity.sweep import ONE_SITE, sweep
from bitwright.sensitivity.workspace import Workspace
from bitwright.settings import DEFAULTS
from bitwright.values import FLOAT, MarginModel, SensitivityTable

UNITS = {
    "fit": "FIT, squared change of the loss (nats^2)",
    "margin-fit": "share of predictions that flip",
    "noise": "mean squared rounding error",
}
OWN_LOSS = "FIT, squared change of the loss"
METHODS: tuple[str, ...] = (*UNITS, *ONE_SITE)
FEWEST, MOST = 8, 32  # samples whose activations are held for the backward pass at once
ACTIVATION_BYTES = 40 << 20  # what those above the fewest may take: memory that the C library keeps at hand
MOST_BYTES = 1 << 29  # what even the fewest may take
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
        check_target_shape(outputs, targets)
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
        got: Any = type(outputs).__name__
        way_out = "wrap the model so that it returns its logits"
        if isinstance(outputs, Tensor):
            got, way_out = tuple(outputs.shape), "use method='fit'"
        raise InvalidInput(
            f"margin-fit needs logits of shape (batch, classes) with at least 2 classes, got {got}; {way_out}"
        )
    top = outputs.topk(2, dim=1).values
    return top[:, 0] - top[:, 1]


def sensitivity(
    graph: Graph,
    batches: Any,
    method: str = DEFAULTS.method,
    bits: Sequence[int] = DEFAULTS.bits,
    *,
    noise: str = "projected",
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
    bits: Sequence[int] = DEFAULTS.bits,
    *,
    noise: str = "projected",
    loss: Loss | None = None,
    samples: int | None = None,
    tolerance: float | None = None,
    progress: Progress | None = None,
) -> list[SensitivityTable]:
    """Score every site at every width with several methods that share their forward passes.

    ``"fit"`` (Zandonati et al., ICLR 2023): harm[s, b] = Tr(F_s) E[d_{s,b}^2], with the empirical Fisher trace
    Tr(F_s) = (1/N) sum_n ||grad_{t_s} l_n||^2 of per-sample gradients; a policy's score is the sum.
    ``"margin-fit"``: the same with the margin m_n between the two largest logits instead of the loss. Each site adds
    a variance to each sample's margin; the table predicts the share of predictions that flip,
    mean_n Phi(-m_n / sqrt(sum_s var[n, s, b])).
    ``"noise"``: E[d^2] alone, a baseline.
    ``"one-site-kl"``, ``"one-site-loss"``, ``"one-site-accuracy"``: measured with each site alone quantized, see
    :func:`~bitwright.sensitivity.sweep.sweep`; they share one sweep, and ``noise`` and ``tolerance`` do not matter.

    Where ``noise`` is ``"uniform"`` (step^2 / 12, the FIT paper's) or ``"measured"`` (mean((Q(t) - t)^2)), errors are
    taken to be independent of the gradient. That holds at 8 bits. At low widths they are not: values that are clipped
    or rounded to zero all err in one direction. ``"projected"`` multiplies each sample's gradient with its own
    rounding error instead, delta = grad . (Q(t) - t). FIT takes the second moment of delta. Margin-FIT takes twice that
    of its harmful half: a decrease of the margin that is more than a common rescaling of all margins, which flips
    nothing. For errors that are white the three noise models agree.

    Args:
        graph: calibrated; its policy is left as it was.
        batches: iterable of (inputs, targets); margin-fit needs no targets.
        methods: which tables to make.
        bits: widths to score.
        noise: ``"projected"``, ``"measured"`` or ``"uniform"``.
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
    check_noise(noise)
    widths = checked_widths(bits)
    data = as_batches(batches)
    swept = None
    if any(method in ONE_SITE for method in methods):
        swept = sweep(graph, data, widths, loss=loss, samples=samples, progress=progress)
    white = noise != "projected" or "noise" in methods
    table_noise: Any = noise_of_sites(graph, widths, noise) if white else None
    gradients = [method for method in methods if method != "noise" and method not in ONE_SITE]
    errors = RoundingErrors(graph, widths) if noise == "projected" and gradients else None
    found = _collect(graph, data, gradients, errors, loss, samples, tolerance, progress) if gradients else None
    tables = []
    for method in methods:
        if method in ONE_SITE and swept is not None:
            tables.append(swept.table(method.removeprefix("one-site-")))
            continue
        if method == "noise" or found is None:
            harm, error, count, model, parts = table_noise, None, 0, None, {}
        else:
            squares, products = found.squares[method], found.products.get(method)
            count = len(squares)
            parts = {"trace": squares.mean(0), "trace_standard_error": _standard_error(squares)}
            if method == "fit":
                model = None
                harm, error = _fit_harm(squares, products, table_noise)
            else:
                variances = _white(squares, table_noise) if products is None else _harmful(products, found.margins)
                model = MarginModel(found.margins, variances)
                chances = model.flip_chances(variances)
                harm, error = chances.mean(0), _standard_error(chances)
        tables.append(
            SensitivityTable(
                method,
                OWN_LOSS if method == "fit" and loss is not None else UNITS[method],
                graph.sites.names,
                widths,
                harm,
                error,
                count,
                graph.graph_hash,
                model,
                parts,
                (f"noise model: {noise}",),
            )
        )
    return tables


def _fit_harm(squares: Any, products: Any, noise: Any) -> tuple[Any, Any]:
    """(S, B) harm and its standard error.

    With products the second moment of the change of the loss is estimated from its mean size,
    E[x^2] = (pi / 2) E[|x|]^2 for a normal x: on data that the network was trained on, a handful of samples carry
    nearly all of the loss, and a mean of squares would listen to them alone.
    """
    if products is None:
        values = _white(squares, noise)
        return values.mean(0), _standard_error(values)
    sizes = np.abs(products)
    mean = sizes.mean(0)
    return np.pi / 2 * mean**2, np.pi * mean * _standard_error(sizes)


def _white(squares: Any, noise: Any) -> Any:
    """(N, S, B): squared gradient norms times noise, for errors that don't depend on the gradient."""
    return squares[:, :, None] * noise[None]


def _harmful(products: Any, margins: Any) -> Any:
    """(N, S, B) variances: twice the square of the part of each change that lowers the margin.

    A change that is proportional to the margin, with a factor below zero, is a rescaling of the logits and is
    taken off first; a change that raises the margin harms nothing.
    """
    slope = np.tensordot(margins, products, axes=1) / max(float(margins @ margins), 1e-300)
    change = products - np.minimum(slope, 0.0)[None] * margins[:, None, None]
    return 2.0 * np.minimum(np.maximum(products, change), 0.0) ** 2


def _standard_error(values: Any) -> Any:
    return values.std(0, ddof=1, dtype=np.float64) / np.sqrt(len(values))


@dataclass
class _Found:
    """Per-sample results: (N, S) squares and (N, S, B) products for each method, and the margins (N,)."""

    squares: dict[str, Any]
    products: dict[str, Any]
    margins: Any


def _collect(
    graph: Graph,
    batches: Any,
    methods: Sequence[str],
    errors: RoundingErrors | None,
    loss: Loss | None,
    samples: int | None,
    tolerance: float | None,
    progress: Progress | None,
) -> _Found:
    squares: dict[str, list[Any]] = {method: [] for method in methods}
    products: dict[str, list[Any]] = {method: [] for method in methods}
    found_margins: list[Any] = []
    done = 0
    with graph.applied(FLOAT), Workspace.of(graph) as workspace:
        for inputs, targets in _micro_batches(graph, batches, samples):

            def fit(outputs: Any, targets: Any = targets) -> Tensor:
                return per_sample_loss(loss, outputs, targets)

            def margin(outputs: Any) -> Tensor:
                values = margins(outputs)
                found_margins.append(values.detach().double().cpu().numpy())
                return values

            scores = [fit if method == "fit" else margin for method in methods]
            found = gradient_moments(graph, inputs, scores, errors, workspace)
            for method, moments in zip(methods, found, strict=True):
                squares[method].append(moments.squares.cpu().numpy())
                if moments.products is not None:
                    products[method].append(moments.products.float().cpu().numpy())
            done += inputs[0].shape[0]
            if progress is not None:
                progress(done, samples)
            if tolerance is not None and done >= MINIMUM and _settled(squares, tolerance):
                break
    if done < 2:
        raise InvalidData(f"sensitivity needs at least 2 samples to estimate a standard error, got {done}")
    stacked = {method: np.concatenate(parts) for method, parts in squares.items()}
    for method, values in stacked.items():
        if not np.isfinite(values).all():
            site = graph.sites.names[int(np.argwhere(~np.isfinite(values))[0][1])]
            raise InvalidData(f"the gradients of {method} at site '{site}' are not finite; check inputs and loss")
    return _Found(
        stacked,
        {method: np.concatenate(parts).astype(np.float64) for method, parts in products.items() if parts},
        np.concatenate(found_margins) if found_margins else np.empty(0),
    )


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
    sample = 4 * sum(s.numel for s in graph.sites.activations) + 1
    size = max(1, min(max(FEWEST, min(MOST, ACTIVATION_BYTES // sample)), MOST_BYTES // sample))
    for inputs, targets in iterate(as_batches(batches), graph.device, "sensitivity"):
        for start in range(0, inputs[0].shape[0], size):
            if left is not None and left <= 0:
                return
            stop = start + (size if left is None else min(size, left))
            part = tuple(value[start:stop] for value in inputs)
            if left is not None:
                left -= part[0].shape[0]
            yield part, targets[start:stop] if isinstance(targets, Tensor) else targets
