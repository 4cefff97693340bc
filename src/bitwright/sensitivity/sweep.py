"""Sweeps: each quantizer alone on, or alone off, and what that does to the output; only what it reaches is computed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from bitwright.arguments import checked
from bitwright.errors import InvalidInput
from bitwright.graph.batches import as_batches, iterate, limited
from bitwright.graph.graph import Graph
from bitwright.graph.variants import HELD_BYTES, Variant, groups, run_variants
from bitwright.tasks.base import Answer, Loss, Task
from bitwright.tasks.columns import Columns, FloatSide
from bitwright.tasks.infer import task_for
from bitwright.tasks.intervals import Array
from bitwright.values import FLOAT, Policy, Sites, check_bits
from bitwright.values.sweep import Sweep, SweepRow

Progress = Callable[[int, int | None], None]
Blocks = Mapping[str, Sequence[str]]


@checked
def sweep(
    graph: Graph,
    batches: Any,
    bits: Sequence[int | None] | Policy = (4,),
    *,
    base: Policy = FLOAT,
    sites: Iterable[str] | Blocks | None = None,
    task: Task | str | None = None,
    loss: Loss | None = None,
    samples: int | None = None,
    held_bytes: int = HELD_BYTES,
    progress: Progress | None = None,
) -> Sweep:
    """Switch one site (or one block of sites) at a time and measure the model against float.

    From float, ``bits=(4,)`` puts each quantizer alone on. From a policy, ``base=policy, bits=(None,)`` puts each alone
    off, and ``bits=(8,)`` each alone at 8 bits. Rank by the distance: what
    the network is for is saturated on data that it was trained on, and coarse on a few hundred others.

    Args:
        graph: calibrated; its policy is left as it was.
        batches: iterable of (inputs, targets); without targets there are fewer figures.
        bits: widths, each for every site, None meaning float; or a policy that gives each site its own.
        base: what the other sites have.
        sites: names to sweep one by one, or label -> names that are switched together (:func:`blocks`); None: all.
        task: what the outputs mean, as in :func:`~bitwright.tasks.evaluate`.
        loss: (outputs, targets) -> (N, ...) losses in place of the task's own.
        samples: stop after this many inputs; None uses all.
        held_bytes: most bytes of activations that are kept while the sweep walks through the graph (one batch is
            kept in any case: what a forward pass on it holds).
        progress: called with (samples done, samples asked for or None), a sample being done when all variants are.

    Returns:
        One row for each site or block at each width, worst first.

    Raises:
        InvalidInput: unknown sites, nothing to sweep, not calibrated, or outputs that do not suit the task.
        InvalidData: no data, or targets that do not fit.
    """
    started = time.perf_counter()
    chosen = _variants(graph, bits, base, sites)
    variants = [variant for _, variant in chosen]
    batches = as_batches(batches)
    meant = task_for(graph, batches, task, loss, purpose="a sweep")
    tallies = [Tally(meant) for _ in range(len(chosen) + 1)]
    floats = FloatSide(meant)
    data = limited(iterate(batches, graph, "a sweep"), samples)
    for group in groups(graph, data, held_bytes):
        before, finished = floats.columns.samples, 0
        inputs = [batch for batch, _ in group]
        expected = [expected_of(graph, meant, batch, targets) for batch, targets in group]
        for one in expected:
            floats.add(one)
            if not base.bits:
                tallies[-1].add(one, one.raw)
        for position, i, outputs in run_variants(graph, inputs, variants, base, bool(base.bits)):
            tallies[position].add(expected[i], outputs)
            if progress is not None and i + 1 == len(inputs) and position < len(chosen):
                finished += 1
                progress(before + (floats.columns.samples - before) * finished // len(chosen), samples)
    rows = [tally.row(label, v, floats) for (label, v), tally in zip(chosen, tallies, strict=False)]
    sign = 1 if base.bits else -1
    distance, primary = (meant.measure(name).label for name in (meant.distance, meant.primary))
    note = f"ranked by {distance}: the primary figure ({primary}) says little on data that the network was trained on"
    return Sweep(
        tuple(sorted(rows, key=lambda row: sign * row.distance)),
        dict(base.bits),
        tallies[-1].row(base.name or "base", Variant(tuple(base.bits), base), floats),
        tuple(dict.fromkeys(label for label, _ in chosen)),
        floats.columns.samples,
        meant.measures,
        meant.distance,
        meant.primary,
        {name: float(values.mean()) for name, values in floats.columns.all().items() if meant.shows(name)},
        graph.graph_hash,
        time.perf_counter() - started,
        (note,),
        meant.agreement,
    )


def blocks(sites: Sites, depth: int = 2) -> dict[str, tuple[str, ...]]:
    """Sites grouped by the first ``depth`` parts of their names: label -> names, e.g. ``layer1.0`` -> its sites."""
    if depth < 1:
        raise InvalidInput(f"depth must be at least 1, got {depth}")
    found: dict[str, list[str]] = {}
    for site in sites:
        parts = site.name.removesuffix(".weight").split(".")
        found.setdefault(".".join(parts[:depth]), []).append(site.name)
    return {label: tuple(names) for label, names in found.items()}


def _variants(
    graph: Graph, bits: Sequence[int | None] | Policy, base: Policy, sites: Iterable[str] | Blocks | None
) -> list[tuple[str, Variant]]:
    base.check(graph.sites)
    if sites is None:
        named: Blocks = {name: (name,) for name in graph.sites.names}
    elif isinstance(sites, Mapping):
        named = sites
    else:
        named = {name: (name,) for name in sites}
    found: list[tuple[str, Variant]] = []
    for label, names in named.items():
        for name in names:
            graph.sites[name]  # raises for an unknown one
        if isinstance(bits, Policy):
            bits.check(graph.sites)
            changes = [{name: bits[name] for name in names}]
        else:
            widths = dict.fromkeys(None if b is None else check_bits(b, label) for b in bits)
            changes = [dict.fromkeys(names, width) for width in widths]
        for change in changes:
            policy = base.replaced(change)
            if dict(policy.bits) != dict(base.bits):
                found.append((label, Variant(tuple(names), policy)))
    if not found:
        raise InvalidInput("there is nothing to sweep: no site would have bits that differ from the base policy's")
    return found


def expected_of(graph: Graph, task: Task, inputs: tuple[Any, ...], targets: Any) -> Answer:
    """The float model's answer to one batch."""
    with graph.applied(FLOAT), torch.no_grad():
        return Answer(task, graph(*inputs), targets, len(inputs[0]))


class Tally:
    """The values of one variant's samples."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._ours, self._pair = Columns(), Columns()
        self._signal = self._noise = 0.0

    def add(self, expected: Answer, outputs: Any) -> None:
        """Take in one batch.

        Raises:
            InvalidData: outputs that are not finite.
        """
        answer = expected if outputs is expected.raw else Answer(self._task, outputs, expected.targets, expected.count)
        self._ours.add(answer.own, answer.count)
        self._pair.add(self._task.against(answer, expected), answer.count)
        for name, value in expected.outputs.items():
            if value.is_floating_point():
                exact = value.double()
                self._signal += float(exact.square().sum())
                self._noise += float((answer.outputs[name].double() - exact).square_().sum())

    def distance(self, floats: FloatSide) -> float:
        """Mean distance to float."""
        return float(self._task.distances(self._pair.all(), floats.spread).mean())

    def row(self, label: str, variant: Variant, floats: FloatSide) -> SweepRow:
        """The figures."""
        task, ours, pair, exact = self._task, self._ours.all(), self._pair.all(), floats.columns.all()
        distances = task.distances(pair, floats.spread)
        changes = {name: ours[name] - exact[name] for name in ours if task.shows(name)}
        columns = {name: values for name, values in pair.items() if task.shows(name)} | {task.distance: distances}
        means = {name: ours[name] for name in changes} | columns
        return SweepRow(
            label,
            variant.sites,
            tuple(variant.policy[site] for site in variant.sites),
            float(distances.mean()),
            _error(distances),
            10 * math.log10(self._signal / self._noise) if self._noise and self._signal else math.inf,
            {name: float(values.mean()) for name, values in means.items()},
            {name: _error(values) for name, values in (changes | columns).items()},
        )


def _error(values: Array) -> float:
    """Standard error of the mean."""
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0
