"""Policies against the float model on the same inputs: the figures of the task, each with its interval."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from bitwright.arguments import checked
from bitwright.errors import InvalidData, PolicyMismatch
from bitwright.graph.batches import Batch, as_batches, iterate
from bitwright.graph.capture import digest_with
from bitwright.graph.graph import Graph
from bitwright.tasks.base import Answer, Evidence, Loss, Metric, Task
from bitwright.tasks.columns import Columns, FloatSide, joined
from bitwright.tasks.infer import task_for
from bitwright.tasks.intervals import Array, Draws, Metered
from bitwright.tasks.metrics import metered
from bitwright.tasks.outputs import like, on_cpu, same_targets
from bitwright.values import FLOAT, Figure, Policy, Verdict

Progress = Callable[[int, int | None], None]

KEEP_BYTES = 1 << 29  # float outputs kept for further policies: 512 MiB
GROUP_BYTES = 1 << 25  # inputs held while float and quantized model take turns: 32 MiB


@dataclass(frozen=True)
class Reference:
    """The float model on some data, made once and compared with many policies.

    Attributes:
        task: that it was made for.
        outputs: of each batch, on the CPU; None when they were too large to keep (the float model then runs again
            beside each policy).
        targets: of each batch, on the CPU.
        marks: what tells the inputs of each batch without targets from others; empty for those with targets.
        columns: name -> (N,) values of the samples.
        spread: output -> variance, see :class:`~bitwright.tasks.base.Evidence`.
        figure: the task's primary figure; None where it compares with float, or without targets.
        graph_hash: the graph that ran.
    """

    task: Task
    outputs: tuple[Any, ...] | None
    targets: tuple[Any, ...]
    marks: tuple[str, ...]
    columns: dict[str, Array]
    spread: dict[str, float]
    figure: Figure | None
    samples: int
    graph_hash: str = ""


def reference(
    graph: Graph,
    batches: Any,
    task: Task | str | None = None,
    *,
    loss: Loss | None = None,
    metric: Metric | Mapping[str, Metric] | None = None,
    progress: Progress | None = None,
) -> Reference:
    """Run the float model over some data, for comparisons with many policies.

    Args:
        graph: its policy is left as it was.
        batches: iterable of (inputs, targets), in the same order whenever it is iterated over.
        task: as in :func:`evaluate`.
        loss: likewise.
        metric: likewise.
        progress: called with (samples done, None).

    Raises:
        InvalidData: no data, or targets that do not fit the outputs.
    """
    data = as_batches(batches)
    meant = task_for(graph, data, task, loss, metric)
    floats = FloatSide(meant)
    outputs: list[Any] = []
    targets: list[Any] = []
    marks: list[str] = []
    size, metrics = 0, {}
    with graph.applied(FLOAT), torch.no_grad():
        for inputs, wanted in iterate(data, graph, "evaluation"):
            answer = Answer(meant, graph(*inputs), wanted, len(inputs[0]))
            floats.add(answer, details=True)
            targets.append(on_cpu(wanted))
            marks.append(_mark(inputs, wanted))
            size += sum(value.nbytes for value in answer.outputs.values())
            outputs = [*outputs, on_cpu(answer.raw)] if size <= KEEP_BYTES or meant.metrics else []
            if progress is not None:
                progress(floats.columns.samples, None)
    if meant.metrics:
        metrics = {name: (value, value) for name, value in _metrics(meant, outputs, targets).items()}
    columns, spread = floats.columns.all(), floats.spread
    figure: Figure | None = None
    if floats.columns.samples > 1:
        figure = meant.measured(Evidence(columns, columns, {}, spread, metrics), Draws()).get(meant.primary)
    kept = tuple(outputs) if size <= KEEP_BYTES else None
    count = floats.columns.samples
    return Reference(meant, kept, tuple(targets), tuple(marks), columns, spread, figure, count, graph.graph_hash)


@checked
def evaluate(
    graph: Graph,
    policy: Policy,
    batches: Any,
    task: Task | str | None = None,
    *,
    loss: Loss | None = None,
    metric: Metric | Mapping[str, Metric] | None = None,
    reference: Reference | None = None,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    progress: Progress | None = None,
) -> Verdict:
    """Measure a policy against the float model.

    Args:
        graph: calibrated; its policy is left as it was.
        policy: what to measure; ``bw.FLOAT`` is fine.
        batches: iterable of (inputs, targets).
        task: what the outputs mean: a task, e.g. ``bw.tasks.Regression(loss=...)``, or its name. None: inferred from
            outputs and targets (:func:`~bitwright.tasks.infer`).
        loss: (outputs, targets) -> (N, ...) losses in place of the task's own.
        metric: (outputs, targets) -> number, larger being better, over all samples at once: the figure that decides
            in place of the task's own; all outputs are then held in memory. Or name -> function, the first decides.
        reference: from :func:`reference` on the same batches, to measure many policies without running the float
            model again; its task is the one that counts.
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
    data = batches if reference is not None else as_batches(batches)
    meant = reference.task if reference is not None else task_for(graph, data, task, loss, metric)
    total = reference.samples if reference else None
    ours, pair, floats = Columns(), Columns(), FloatSide(meant)
    kept: list[tuple[Any, Any, Any]] = []
    for answer, expected in pairs(graph, policy, data, meant, reference):
        if meant.needs_targets and answer.targets is None:
            raise InvalidData(f"targets are needed here: batches of the task '{meant.name}' must be (inputs, targets)")
        ours.add({**answer.own, **meant.details(answer)}, answer.count)
        pair.add(meant.against(answer, expected), answer.count)
        if reference is None:
            floats.add(expected, details=True)
        if meant.metrics:
            kept.append((on_cpu(answer.raw), on_cpu(expected.raw), on_cpu(answer.targets)))
        if progress is not None:
            progress(ours.samples, total)
    metrics: dict[str, tuple[Metered, Metered]] = {}
    if kept:
        mine, exact, targets = zip(*kept, strict=True)
        found, wanted = _metrics(meant, mine, targets), _metrics(meant, exact, targets)
        metrics = {name: (found[name], wanted[name]) for name in found}
    columns = reference.columns if reference is not None else floats.columns.all()
    spread = reference.spread if reference is not None else floats.spread
    evidence = Evidence(ours.all(), columns, pair.all(), spread, metrics)
    return meant.verdict(evidence, Draws(resamples, seed, level), policy.name)


def _metrics(task: Task, outputs: Any, targets: Any) -> dict[str, Metered]:
    """The user's metrics of all batches together."""
    return metered(task.metrics, joined(outputs), joined(targets))


def pairs(
    graph: Graph,
    policy: Policy,
    batches: Any,
    task: Task,
    reference: Reference | None = None,
    run: Callable[..., list[Any]] | None = None,
) -> Iterator[tuple[Answer, Answer]]:
    """Quantized and float answers of each batch; weights are rounded once for several of them.

    ``run``, inputs to flat outputs, answers in place of the graph under the policy: an exported file in its runtime.
    """
    count = 0
    outputs = reference.outputs if reference is not None else None
    for group in _groups(iterate(batches, graph, "evaluation"), alone=outputs is not None):
        if reference is not None:
            for i, batch in enumerate(group):
                _check_same(reference, count + i, *batch)
        if outputs is None:
            expected = _run(graph, FLOAT, group)
        else:
            expected = [_on(graph, outputs[count + i]) for i in range(len(group))]
        ours = _run(graph, policy, group) if run is None else _asked(graph, run, expected, group)
        for one, other, (inputs, targets) in zip(ours, expected, group, strict=True):
            samples = len(inputs[0])
            yield Answer(task, one, targets, samples), Answer(task, other, targets, samples)
        count += len(group)
    if reference is not None and count != len(reference.targets):
        raise InvalidData(f"the reference was made from {len(reference.targets)} batches, this data has {count}")


def _groups(batches: Iterator[Batch], alone: bool) -> Iterator[list[Batch]]:
    """Batches in groups of bounded size, so that weights are rounded once for each group."""
    group: list[Batch] = []
    size = 0
    for batch in batches:
        group.append(batch)
        size += sum(value.nbytes for value in batch[0])
        if alone or size > GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _run(graph: Graph, policy: Policy, group: list[Batch]) -> list[Any]:
    """The outputs of each batch under a policy."""
    with graph.applied(policy), torch.no_grad():
        return [graph(*inputs) for inputs, _ in group]


def _asked(graph: Graph, run: Callable[..., list[Any]], expected: list[Any], group: list[Batch]) -> list[Any]:
    """The outputs that a file gives for each batch, in the structure of the graph's."""
    found = [[torch.as_tensor(value) for value in run(*inputs)] for inputs, _ in group]
    return [_on(graph, like(other, values)) for other, values in zip(expected, found, strict=True)]


def _on(graph: Graph, outputs: Any) -> Any:
    return torch.utils._pytree.tree_map(lambda v: v.to(graph.device) if isinstance(v, torch.Tensor) else v, outputs)


def _mark(inputs: tuple[Any, ...], targets: Any) -> str:
    """A digest of the inputs of a batch without targets: with targets, these tell it from others."""
    return "" if targets is not None else digest_with(hashlib.sha256(), {str(i): v for i, v in enumerate(inputs)})


def _check_same(reference: Reference, position: int, inputs: tuple[Any, ...], targets: Any) -> None:
    known = position < len(reference.targets)
    if not known or not same_targets(reference.targets[position], targets):
        raise InvalidData(
            f"batch {position} differs in its targets from the reference; use the same data, without shuffling"
        )
    if reference.marks[position] != _mark(inputs, targets):
        raise InvalidData(
            f"batch {position} differs in its inputs from the reference; use the same data, without shuffling"
        )
