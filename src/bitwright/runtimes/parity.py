"""Parity: whether an exported file gives in its runtime what the simulation gives."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.utils._pytree import tree_leaves

from bitwright.arguments import checked
from bitwright.errors import InvalidInput, PolicyMismatch
from bitwright.graph.batches import as_batches, iterate
from bitwright.graph.calling import Calling
from bitwright.graph.graph import Graph
from bitwright.graph.outputs import flatten
from bitwright.graph.places import site_behind
from bitwright.runtimes.drift import first_drift
from bitwright.runtimes.runtime import RUNTIMES
from bitwright.settings import DEFAULTS
from bitwright.tasks.base import Answer, Evidence, Task
from bitwright.tasks.columns import Columns, FloatSide, joined
from bitwright.tasks.infer import task_for
from bitwright.tasks.intervals import Draws, Metered
from bitwright.tasks.metrics import metered
from bitwright.tasks.outputs import like, on_cpu
from bitwright.values import Closeness, Figure, Parity, Policy


@checked
def parity(
    graph: Graph,
    path: str | Path,
    batches: Any,
    threads: int = 1,
    runtime: str = DEFAULTS.runtime,
    task: Task | str | None = None,
) -> Parity:
    """Run an exported file on some data and compare it with the simulation, input by input.

    With the runtime's graph optimisations off, each operation runs as it stands in the file and rounds where the
    simulation rounds: the outputs must be the same. With them on, fused integer kernels round otherwise now
    and then. On x86 processors without VNNI instructions, 8-bit weights can saturate in them besides. A runtime that
    optimises nothing when it loads a file, as ExecuTorch, runs it once, and what it computes counts as fused.

    Values are compared for every task; decisions, such as top-1 classes, where the task makes some.

    Args:
        graph: that was exported; the policy that is written in the file is the one compared.
        path: of the file.
        batches: iterable of (inputs, targets), or of inputs; targets give the task's figure in the runtime.
        threads: of the runtime.
        runtime: that the file was exported for.
        task: what the outputs mean, as in :func:`~bitwright.tasks.evaluate`; where it cannot be inferred, values alone
            are compared.

    Raises:
        MissingExtra: the runtime is not installed.
        InvalidInput: the file is missing, or the outputs do not suit the task.
        InvalidData: no batch, or one that cannot be used.
        PolicyMismatch: the file was made from another graph.
        ExportError: the runtime cannot load the file.
    """
    chosen = RUNTIMES[runtime]
    ways = (False, True) if chosen.optimises else (True,)
    sessions = [chosen.load(path, optimised, threads) for optimised in ways]
    policy = written_policy(sessions[0].metadata, graph, path)
    data = as_batches(batches)
    meant = _task(graph, data, task)
    with graph.applied(policy), torch.no_grad():
        steps = output_steps(graph)
        tallies = [_Tally(meant, steps) for _ in ways]
        for inputs, targets in iterate(data, graph, "parity"):
            simulated = on_cpu(graph(*inputs))
            for tally, session in zip(tallies, sessions, strict=True):
                found = [torch.from_numpy(value) for value in session(*inputs)]
                tally.add(inputs, simulated, found, targets)
        drifts = [
            first_drift(graph, chosen, path, tally.worst, optimised, threads) if tally.differs else None
            for optimised, tally in zip(ways, tallies, strict=True)
        ]
    exact, fused = tallies[0] if chosen.optimises else None, tallies[-1]
    compared = meant is not None and bool(meant.agreement)
    return Parity(
        runtime=chosen.version(),
        samples=fused.ours.samples,
        exact_difference=exact.largest if exact else None,
        fused_difference=fused.largest,
        step=steps[0] if None not in steps else None,
        agreement=meant.measure(meant.agreement) if meant is not None and compared else None,
        exact_agreement=exact.agreement if exact else None,
        fused_agreement=fused.agreement,
        figure=fused.figures.get("figure"),
        distance=fused.figures.get("distance"),
        exact=exact.closeness if exact else None,
        fused=fused.closeness,
        exact_drift=drifts[0] if exact else None,
        fused_drift=drifts[-1],
    )


def predict(
    path: str | Path,
    batches: Any,
    optimised: bool = True,
    threads: int = 1,
    runtime: str = DEFAULTS.runtime,
) -> Tensor:
    """The file's first output on all batches, (N, ...).

    Args:
        path: of the exported file.
        batches: iterable of (inputs, targets) or of inputs.
        optimised: as in :meth:`~bitwright.runtimes.runtime.Runtime.load`.
        threads: used inside an operation.
        runtime: that the file was exported for.

    Raises:
        MissingExtra: the runtime is not installed.
        InvalidData: no batch, or inputs that the file cannot take.
    """
    session = RUNTIMES[runtime].load(path, optimised, threads)
    calling = Calling(tuple(json.loads(session.metadata.get("bitwright.inputs", "[]"))))
    rows = (calling.arranged(inputs) for inputs, _ in iterate(batches, purpose="prediction"))
    found = [torch.from_numpy(session(*inputs)[0]) for inputs in rows]
    return torch.cat(found)


def _task(graph: Graph, batches: Any, task: Task | str | None) -> Task | None:
    try:
        return task_for(graph, batches, task, purpose="parity")
    except InvalidInput:
        if task is not None:
            raise
        return None


def output_steps(graph: Graph) -> list[float | None]:
    """Size of one step of each output under the current policy; None for one that stays in float."""
    returned = next(node for node in graph.module.graph.nodes if node.op == "output").args[0]
    found = [site_behind(graph.module, value) for value in tree_leaves(returned) if isinstance(value, Node)]
    return [
        None if site is None or site.bits is None or site.dynamic else float(site.grid(site.bits).scale)
        for site in found
    ]


def written_policy(metadata: Mapping[str, str], graph: Graph, path: str | Path) -> Policy:
    """The policy that a file was exported under.

    Raises:
        InvalidInput: Bitwright did not export it.
        PolicyMismatch: it was made from another graph.
    """
    if "bitwright.policy" not in metadata:
        raise InvalidInput(f"the file '{path}' was not exported by Bitwright: it holds no policy")
    if metadata.get("bitwright.graph") != graph.graph_hash:
        raise PolicyMismatch(
            f"the file '{path}' was exported from graph {metadata.get('bitwright.graph')}, this graph is "
            f"{graph.graph_hash}; export it again"
        )
    return Policy.from_json(metadata["bitwright.policy"], f"the policy in '{path}'")


class _Tally:
    """The file against the simulation."""

    def __init__(self, task: Task | None, steps: list[float | None]) -> None:
        self._task, self._steps = task, steps
        self.ours, self._pair = Columns(), Columns()
        self._simulated = None if task is None else FloatSide(task)
        self._kept: list[tuple[Any, Any]] = []
        self.largest = 0.0
        self.worst: tuple[Tensor, ...] = ()  # inputs of the batch with the largest difference, from that sample on
        self._outputs: dict[str, _Apart] = {}

    def add(self, inputs: tuple[Tensor, ...], simulated: Any, found: list[Tensor], targets: Any) -> None:
        count, raw = len(inputs[0]), like(simulated, found)
        wanted = flatten(simulated)
        in_steps = None not in self._steps and len(self._steps) == len(wanted)
        for i, (name, other) in enumerate(zip(wanted, flatten(raw).values(), strict=True)):
            apart = self._outputs.setdefault(name, _Apart()).add(wanted[name].double(), other.double())
            difference = float(apart.max()) / ((self._steps[i] or 1.0) if in_steps else 1.0)
            if difference > self.largest or not self.worst:
                start = int(apart.flatten(1).amax(1).argmax()) if len(apart) == count and apart.dim() > 1 else 0
                self.largest, self.worst = difference, tuple(value[start:] for value in inputs)
        task = self._task
        if task is None or self._simulated is None:
            self.ours.add({}, count)
            return
        expected, answer = (Answer(task, outputs, targets, count) for outputs in (simulated, raw))
        self.ours.add({**answer.own, **task.details(answer)}, count)
        self._simulated.add(expected, details=True)
        self._pair.add(task.against(answer, expected), count)
        if task.metrics and targets is not None:
            self._kept.append((raw, targets))

    @cached_property
    def closeness(self) -> Closeness:
        """The values, of several outputs the farthest."""
        steps = self._steps if len(self._steps) == len(self._outputs) else [None] * len(self._outputs)
        found = [apart.closeness(step) for apart, step in zip(self._outputs.values(), steps, strict=True)]
        relative = max((one.relative_error for one in found), default=0.0)
        sqnr = min((one.sqnr for one in found if one.sqnr is not None), default=None)
        return Closeness(max((one.steps for one in found), default=0.0), relative, sqnr)

    @property
    def differs(self) -> bool:
        """Whether some value differs by more than a step, or some decision."""
        return self.closeness.steps > 1 or (self.agreement is not None and self.agreement < 1)

    @cached_property
    def measured(self) -> dict[str, Figure]:
        """All figures of the task, the simulation in float's place."""
        task, simulated = self._task, self._simulated
        if task is None or simulated is None or self.ours.samples < 2:
            return {}
        metrics: dict[str, tuple[Metered, Metered]] = {}
        if self._kept:
            outputs, targets = (joined(part) for part in zip(*self._kept, strict=True))
            metrics = {name: (found, found) for name, found in metered(task.metrics, outputs, targets).items()}
        spread = simulated.spread
        if not any(spread.values()):  # equal outputs for all samples: differences stay in their own unit
            spread = dict.fromkeys(spread, 1.0)
        evidence = Evidence(self.ours.all(), simulated.columns.all(), self._pair.all(), spread, metrics)
        return task.measured(evidence, Draws())

    @property
    def agreement(self) -> float | None:
        """The share of equal decisions, where the task makes some."""
        figure = self.measured.get(self._task.agreement) if self._task else None
        return None if figure is None else figure.value.value

    @property
    def figures(self) -> dict[str, Figure]:
        """The task's primary figure of the file itself, and the distance to the simulation."""
        task = self._task
        if task is None:
            return {}
        names = {"distance": task.distance}
        if not task.compares or task.metrics:
            names["figure"] = task.primary
        return {key: self.measured[name] for key, name in names.items() if name in self.measured}


class _Apart:
    """How far two versions of one output are apart, batch by batch, in float64."""

    def __init__(self) -> None:
        self._largest = self._apart = self._whole = 0.0
        self._low, self._high = math.inf, -math.inf

    def add(self, value: Tensor, other: Tensor) -> Tensor:
        """Add a batch; the absolute differences in it."""
        # A mask's -inf is equal to itself; a NaN is as far away as can be.
        difference = torch.where(value == other, 0.0, value - other).nan_to_num(nan=math.inf).abs()
        value = value[value.isfinite()]
        self._largest = max(self._largest, float(difference.max()))
        self._apart += float(difference.square().sum())
        self._whole += float(value.square().sum())
        if value.numel():
            self._low, self._high = min(self._low, float(value.min())), max(self._high, float(value.max()))
        return difference

    def closeness(self, step: float | None) -> Closeness:
        """See :class:`Closeness`; an output of equal values counts in 255ths of them, one of zeros in its own unit."""
        step = step or (self._high - self._low or abs(self._high) or 1.0) / 255
        if not self._apart:
            return Closeness(0.0, 0.0)
        relative = math.sqrt(self._apart / (self._whole or self._apart))
        return Closeness(self._largest / step, relative, -20 * math.log10(relative))
