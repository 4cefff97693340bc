"""Squared norms of per-sample gradients at every site, from one backward pass per batch.

The float graph is run so that gradients reach the sites only:

- activation sites: the gradient of the summed loss at the site's output holds each sample's own gradient;
- weight sites: no weight ever gets a ``.grad``. From the input a_n and the output gradient g_n of its operation the
  gradient of each sample is formed in chunks and squared at once: convolutions as one grouped convolution whose
  groups are the samples, linear layers by the Gram trick ||a_n^T g_n||^2 = sum (a a^T) * (g g^T) or directly,
  whichever is cheaper.

Each gradient is used up as soon as the backward pass has made it, so that memory stays bounded. Nothing accumulates
from sample to sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bitwright.graph.graph import Graph
from bitwright.sensitivity.layout import PLAIN, Layout, Layouts
from bitwright.sensitivity.per_sample import CHUNK_BYTES, Pair, joined, reduced
from bitwright.sensitivity.readers import Reader
from bitwright.sensitivity.recorder import Recorder
from bitwright.sensitivity.rounding_errors import RoundingErrors
from bitwright.sensitivity.workspace import Workspace

Scores = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Moments:
    """What the gradients of one score say about the sites, sample by sample.

    Attributes:
        squares: (N, S) squared norm of the gradient at each site.
        products: (N, S, B) inner product of the gradient with the rounding error of each width, with its sign: the
            change of the score to first order; None when no widths were asked for.
    """

    squares: Tensor
    products: Tensor | None

    @staticmethod
    def of(columns: dict[int, Pair], sites: int, empty: Pair) -> Moments:
        """Put the (N,) squares and (N, B) products of the sites side by side; ``empty`` is for sites without any."""
        pairs = [columns.get(column, empty) for column in range(sites)]
        squares = torch.stack([pair[0].double() for pair in pairs], 1)
        if empty[1] is None:
            return Moments(squares, None)
        return Moments(squares, torch.stack([pair[1].double() for pair in pairs if pair[1] is not None], 1))


def gradient_moments(
    graph: Graph,
    inputs: tuple[Any, ...],
    scores: Sequence[Scores],
    errors: RoundingErrors | None = None,
    workspace: Workspace | None = None,
) -> list[Moments]:
    """Gradients of each sample's score at each site of the float graph, reduced to what sensitivity needs.

    Args:
        graph: its policy must be float.
        inputs: one batch.
        scores: functions from the outputs to one number per sample, (N,), e.g. the loss of each sample; they share
            the forward pass.
        errors: gives the rounding errors to multiply the gradients with; None for squared norms alone.
        workspace: memory to work in; give the same one for all batches.

    Returns:
        For each score its moments, float64, columns in the order of ``graph.sites``.
    """
    samples, device = inputs[0].shape[0], inputs[0].device
    with torch.enable_grad():
        recorder = Recorder(graph)
        outputs = recorder.run(inputs)
        values = [score(outputs) for score in scores]
        del outputs
        layouts = _layouts(graph, recorder, values[0])
        collector = _Collector(graph, recorder, layouts, errors, workspace or Workspace(), samples)
        found = collector.collect(values)
    squares = torch.zeros(samples, dtype=torch.float64, device=device)
    empty = squares, squares.new_zeros(samples, len(errors.bits)) if errors else None
    return [Moments.of(columns, len(graph.sites), empty) for columns in found]


class _Collector:
    """Reduces gradients to moments while the backward passes run.

    The gradients of some readers wait for those of the last score, so that work for all scores is done once.
    """

    def __init__(
        self,
        graph: Graph,
        recorder: Recorder,
        layouts: list[Layout],
        errors: RoundingErrors | None,
        workspace: Workspace,
        samples: int,
    ) -> None:
        self._columns = {name: i for i, name in enumerate(graph.sites.names)}
        self._readers: list[Reader | None] = list(recorder.readers)
        self._watched = recorder.watched
        self._leaves = recorder.leaves
        self._many = recorder.shared
        self._shared: dict[str, list[tuple[Reader, list[tuple[int, Tensor]]]]] = {}
        self._layouts = layouts
        self._errors = errors
        self._workspace = workspace
        self._samples = samples
        self._result: list[dict[int, Pair]] = []
        self._kept: dict[int, list[tuple[int, Tensor]]] = {}
        self._arranged: set[int] = set()
        self._last = self._score = 0
        recorder.readers.clear()

    def collect(self, scores: list[Tensor]) -> list[dict[int, Pair]]:
        """Run a backward pass for each score, (N,) each; for each what was found, by the site's column."""
        self._last = len(scores) - 1
        self._result = [{} for _ in scores]
        same = [i for i, layout in enumerate(self._layouts) if layout.axis is None]
        for i, found in self._of_same(scores, same).items():
            self._kept[i] = found
        hooks: list[Any] = []
        for i, value in enumerate(self._watched):
            if i not in self._kept:
                hooks.append(value.register_hook(self._hook(i)))  # type: ignore[no-untyped-call]
        self._watched.clear()
        for k, score in enumerate(scores):
            self._score = k
            torch.autograd.grad(score.sum(), self._leaves, retain_graph=k < self._last, allow_unused=True)
        for hook in hooks:
            hook.remove()
        with torch.no_grad():
            for i in sorted(self._kept, reverse=True):
                self._reduce(i, self._kept.pop(i))
            self._add_shared()
        return self._result

    def _of_same(self, scores: list[Tensor], positions: list[int]) -> dict[int, list[tuple[int, Tensor]]]:
        """Gradients (N, ...) of values that are the same for all samples: one backward pass for each sample."""
        found: dict[int, list[tuple[int, Tensor]]] = {i: [] for i in positions}
        for k, score in enumerate(scores if positions else []):
            values = [self._watched[i] for i in positions]
            parts = [torch.autograd.grad(s, values, retain_graph=True, allow_unused=True) for s in score.unbind()]
            for i, pieces in zip(positions, zip(*parts, strict=True), strict=True):
                if pieces[0] is not None:
                    found[i].append((k, torch.stack(pieces)))
        return found

    def _hook(self, i: int) -> Callable[[Tensor], None]:
        def take(gradient: Tensor) -> None:
            score, reader = self._score, self._readers[i]
            if reader is not None and score < self._last and reader.together:
                kept = self._workspace.take((score, i), gradient.shape, gradient).copy_(gradient)
                self._kept.setdefault(i, []).append((score, kept))
            else:
                with torch.no_grad():
                    self._reduce(i, [*self._kept.pop(i, []), (score, gradient)])

        return take

    def _reduce(self, i: int, found: list[tuple[int, Tensor]]) -> None:
        """Use up the gradients (score, gradient) at one watched tensor."""
        reader, layout = self._readers[i], self._layouts[i]
        assert reader is not None
        if self._score == self._last:
            self._readers[i] = None  # and what it holds of the forward pass
        if layout != PLAIN:
            if i not in self._arranged:
                self._arranged.add(i)
                reader.arrange(layout, self._samples)
            if layout.axis is not None:
                found = [(k, layout.batch_first(gradient, self._samples)) for k, gradient in found]
        if reader.site in self._many:
            self._shared.setdefault(reader.site, []).append((reader, found))
            return
        moments = reader.moments([gradient for _, gradient in found], self._errors, self._workspace)
        for (k, _), one in zip(found, moments, strict=True):
            self._result[k][self._columns[reader.site]] = one

    def _add_shared(self) -> None:
        """Weights that are used several times: the gradients of their uses add up before they are squared."""
        for site, users in self._shared.items():
            error = self._errors.of_weight(site) if self._errors else None
            chunk = max(1, CHUNK_BYTES // (8 * users[0][0].numel))
            for k, columns in enumerate(self._result):
                uses = [(reader, gradient) for reader, found in users for score, gradient in found if score == k]
                parts: list[Pair] = []
                for start in range(0, self._samples if uses else 0, chunk):
                    part = slice(start, start + chunk)
                    whole = sum(reader.materialized(gradient, part) for reader, gradient in uses)
                    assert isinstance(whole, Tensor)
                    parts.append(reduced(whole.flatten(1), error))
                if parts:
                    columns[self._columns[site]] = joined(parts)


def _layouts(graph: Graph, recorder: Recorder, scores: Tensor) -> list[Layout]:
    """Where the samples are in each watched tensor."""
    known = Layouts.of(graph)
    count = len(scores)
    options = [
        known.candidates(reader.node, value.shape, count)
        for reader, value in zip(recorder.readers, recorder.watched, strict=True)
    ]
    open_ones = [i for i, option in enumerate(options) if len(option) > 1]
    if open_ones:
        watched = [recorder.watched[i] for i in open_ones]
        weights = torch.arange(1, count + 1, device=scores.device, dtype=scores.dtype)
        plain, weighted = (
            torch.autograd.grad(total, watched, retain_graph=True, allow_unused=True)
            for total in (scores.sum(), (scores * weights).sum())
        )
        for i, one, other in zip(open_ones, plain, weighted, strict=True):
            reader = recorder.readers[i]
            if one is not None:
                options[i] = [known.settle(reader.node, reader.site, options[i], one, other)]
    return [option[0] for option in options]
