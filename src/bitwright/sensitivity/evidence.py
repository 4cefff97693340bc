"""What sensitivity methods are made of: gradients, rounding errors and sweeps, each made once for all methods."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from torch import Tensor

from bitwright.errors import InvalidData
from bitwright.graph.batches import Batch, as_batches, cut, iterate, limited
from bitwright.graph.graph import Graph
from bitwright.sensitivity.gradients import gradient_moments
from bitwright.sensitivity.method import Array, Method
from bitwright.sensitivity.noise import noise_of_sites
from bitwright.sensitivity.rounding_errors import RoundingErrors
from bitwright.sensitivity.suspects import PROBED, checked, probe
from bitwright.sensitivity.sweep import sweep
from bitwright.sensitivity.workspace import Workspace
from bitwright.tasks import Task
from bitwright.values import FLOAT
from bitwright.values.sweep import Sweep

Progress = Callable[[int, int | None], None]

FEWEST, MOST = 8, 32  # samples whose activations are held for the backward pass at once
ACTIVATION_BYTES = 40 << 20  # what those above the fewest may take: memory that the C library keeps at hand
MOST_BYTES = 1 << 29  # what even the fewest may take
MINIMUM = 32  # samples before a tolerance can stop the collection


@dataclass(frozen=True)
class Gradients:
    """Of one score, for each sample.

    Attributes:
        values: (N,) the score.
        squares: (N, S) squared norms of its gradients at the sites.
        products: (N, S, B) gradient times rounding error at each width, raised where a measured change was larger; None
            where errors are taken to be white.
        doubts: site -> why they are not to be trusted.
    """

    values: Array
    squares: Array
    products: Array | None
    doubts: dict[str, str]

    @property
    def parts(self) -> dict[str, Array]:
        """The trace of each site and its standard error, for a table."""
        return {"trace": self.squares.mean(0), "trace_standard_error": standard_error(self.squares)}


@dataclass(frozen=True)
class Evidence:
    """What a method can ask for; each part is made when it is first asked for, once for all methods.

    Attributes:
        graph: calibrated.
        batches: of (inputs, targets).
        bits: the widths to score.
        methods: that will ask.
        task: what the outputs mean.
        noise_model: ``"projected"``, ``"measured"`` or ``"uniform"``.
        samples: to look at; None for all.
        tolerance: relative standard error of the traces that is enough, or None.
        progress: called with (samples done, samples asked for or None).
    """

    graph: Graph
    batches: Any
    bits: tuple[int, ...]
    methods: tuple[Method, ...]
    task: Task
    noise_model: str = "projected"
    samples: int | None = None
    tolerance: float | None = None
    progress: Progress | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """The noise model in words."""
        return (f"noise model: {self.noise_model}",)

    @cached_property
    def noise(self) -> Array:
        """(S, B) mean squared rounding error of each site at each width."""
        return noise_of_sites(self.graph, self.bits, self.noise_model)

    @cached_property
    def sweep(self) -> Sweep:
        """Each site alone quantized at each width."""
        return sweep(self.graph, self.batches, self.bits, task=self.task, samples=self.samples, progress=self.progress)

    def gradients(self, method: str) -> Gradients:
        """Of the ``score`` of a method; those of all methods come from the same passes over the data."""
        return self._gradients[method]

    @cached_property
    def _gradients(self) -> dict[str, Gradients]:
        methods = [method for method in self.methods if method.score is not None]
        errors = RoundingErrors(self.graph, self.bits) if self.noise_model == "projected" else None
        return _collect(self, methods, errors)


def white(squares: Array, noise: Array) -> Array:
    """(N, S, B): squared gradient norms times noise, for errors that don't depend on the gradient."""
    return squares[:, :, None] * noise[None]


def standard_error(values: Array) -> Array:
    """Of the mean over the first axis."""
    found: Array = values.std(0, ddof=1, dtype=np.float64) / np.sqrt(len(values))
    return found


def _collect(evidence: Evidence, methods: Sequence[Method], errors: RoundingErrors | None) -> dict[str, Gradients]:
    graph, names = evidence.graph, [method.name for method in methods]
    values: dict[str, list[Any]] = {name: [] for name in names}
    squares: dict[str, list[Any]] = {name: [] for name in names}
    products: dict[str, list[Any]] = {name: [] for name in names}
    done = 0
    first: Any = None

    def scored(outputs: Any, method: Method, targets: Any, count: int) -> Tensor:
        assert method.score is not None
        found = method.score(evidence.task, outputs, targets, count)
        values[method.name].append(found.detach().double().cpu().numpy())
        return found

    with graph.applied(FLOAT), Workspace.of(graph) as workspace:
        for inputs, targets in micro_batches(graph, evidence.batches, evidence.samples):
            count = len(inputs[0])
            first = first or cut((inputs, targets), 0, PROBED)
            scores = [partial(scored, method=method, targets=targets, count=count) for method in methods]
            for name, moments in zip(names, gradient_moments(graph, inputs, scores, errors, workspace), strict=True):
                squares[name].append(moments.squares.cpu().numpy())
                if moments.products is not None:
                    products[name].append(moments.products.float().cpu().numpy())
            done += inputs[0].shape[0]
            if evidence.progress is not None:
                evidence.progress(done, evidence.samples)
            if evidence.tolerance is not None and done >= MINIMUM and settled(squares, evidence.tolerance):
                break
    if done < 2:
        raise InvalidData(f"sensitivity needs at least 2 samples to estimate a standard error, got {done}")
    found = {}
    for name in names:
        stacked = np.concatenate(squares[name])
        if not np.isfinite(stacked).all():
            site = graph.sites.names[int(np.argwhere(~np.isfinite(stacked))[0][1])]
            raise InvalidData(f"the gradients of {name} at site '{site}' are not finite; check inputs and loss")
        parts = np.concatenate(products[name]).astype(np.float64) if products[name] else None
        found[name] = Gradients(np.concatenate(values[name]), stacked, parts, {})
    return found if errors is None else _checked(evidence, methods, found, first)


def _checked(
    evidence: Evidence, methods: Sequence[Method], found: dict[str, Gradients], batch: Batch
) -> dict[str, Gradients]:
    """Products checked against measured changes on the first samples."""
    inputs, targets = batch

    def measured(outputs: Any, method: Method) -> Array:
        assert method.score is not None
        values: Array = method.score(evidence.task, outputs, targets, len(inputs[0])).double().cpu().numpy()
        return values

    products = {name: one.products for name, one in found.items() if one.products is not None}
    values = [found[name].values for name in products]
    scores = [partial(measured, method=method) for method in methods]
    seen = probe(evidence.graph, inputs, evidence.bits, scores, values, list(products.values()))
    raised = {}
    for place, (name, changes) in enumerate(products.items()):
        result = checked(seen, place, evidence.graph.sites.names, values[place], changes)
        raised[name] = replace(found[name], products=result.products, doubts=result.doubts)
    return raised


def settled(found: Mapping[str, list[Any]], tolerance: float) -> bool:
    """Whether the relative standard error of every site's mean, of (n, S) values, is at most the tolerance."""
    for parts in found.values():
        values = np.concatenate(parts)
        mean = values.mean(0)
        error = values.std(0, ddof=1) / np.sqrt(len(values))
        if (error > tolerance * np.maximum(mean, 1e-300)).any():
            return False
    return True


def micro_batches(graph: Graph, batches: Any, samples: int | None) -> Iterator[Batch]:
    """The data in batches whose activations fit into memory with what a backward pass holds."""
    sample = 4 * sum(s.numel for s in graph.sites.activations) + 1
    size = max(1, min(max(FEWEST, min(MOST, ACTIVATION_BYTES // sample)), MOST_BYTES // sample))
    for batch in limited(iterate(as_batches(batches), graph, "sensitivity"), samples):
        for start in range(0, batch[0][0].shape[0], size):
            yield cut(batch, start, start + size)
