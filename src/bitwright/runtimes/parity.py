"""Parity: whether an exported file gives in its runtime what the simulation gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bitwright.errors import InvalidInput, PolicyMismatch
from bitwright.evaluation.intervals import bootstrap_mean, wilson
from bitwright.graph.batches import has_classes, iterate
from bitwright.graph.graph import Graph
from bitwright.graph.places import site_behind
from bitwright.runtimes.runtime import RUNTIMES
from bitwright.settings import DEFAULTS
from bitwright.values import Interval, Parity, Policy


def parity(graph: Graph, path: str | Path, batches: Any, threads: int = 1, runtime: str = DEFAULTS.runtime) -> Parity:
    """Run an exported file on some data and compare it with the simulation, input by input.

    With the runtime's graph optimisations off, each operation runs as it stands in the file and rounds where the
    simulation rounds: the outputs must be the same. With them on, fused integer kernels round otherwise now
    and then. On x86 processors without VNNI instructions, 8-bit weights can saturate in them besides.

    Outputs of shape (batch, classes, ...) are compared by their top-1 class and by value, all others, and those that
    come with float targets, by value alone.

    Args:
        graph: that was exported; the policy that is written in the file is the one compared.
        path: of the file.
        batches: iterable of (inputs, targets), or of inputs; class targets give the accuracy in the runtime.
        threads: of the runtime.
        runtime: that the file was exported for.

    Raises:
        MissingExtra: the runtime is not installed.
        InvalidInput: the file is missing, or the first output is no tensor.
        InvalidData: no batch, or one that cannot be used.
        PolicyMismatch: the file was made from another graph.
        ExportError: the runtime cannot load the file.
    """
    chosen = RUNTIMES[runtime]
    sessions = [chosen.load(path, optimised, threads) for optimised in (False, True)]
    policy = _policy(sessions[0].metadata, graph, path)
    tallies = (_Tally(), _Tally())
    with graph.applied(policy), torch.no_grad():
        step = output_step(graph)
        for inputs, targets in iterate(batches, purpose="parity"):
            simulated = _first(graph(*(value.to(graph.device) for value in inputs))).cpu()
            for tally, session in zip(tallies, sessions, strict=True):
                tally.add(simulated, torch.from_numpy(session(*inputs)[0]), targets)
    exact, fused = tallies
    unit = step or 1.0
    return Parity(
        runtime=chosen.version(),
        samples=exact.samples,
        exact_agreement=exact.agreement,
        fused_agreement=fused.agreement,
        exact_logit_difference=exact.largest / unit,
        fused_logit_difference=fused.largest / unit,
        step=step,
        accuracy=fused.accuracy,
        predictions=fused.count,
        accuracy_interval=fused.accuracy_interval,
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
    found = [torch.from_numpy(session(*inputs)[0]) for inputs, _ in iterate(batches, purpose="prediction")]
    return torch.cat(found)


def output_step(graph: Graph) -> float | None:
    """Size of one step of the first output under the policy in force, or None when it stays in float."""
    returned = next(node for node in graph.module.graph.nodes if node.op == "output").args[0]
    while isinstance(returned, (tuple, list)):
        returned = returned[0]
    found = site_behind(graph.module, returned)
    return None if found is None or found.bits is None else float(found.grid(found.bits).scale)


def _policy(metadata: Mapping[str, str], graph: Graph, path: str | Path) -> Policy:
    if "bitwright.policy" not in metadata:
        raise InvalidInput(f"the file '{path}' was not exported by Bitwright: it holds no policy")
    if metadata.get("bitwright.graph") != graph.graph_hash:
        raise PolicyMismatch(
            f"the file '{path}' was exported from graph {metadata.get('bitwright.graph')}, this graph is "
            f"{graph.graph_hash}; export it again"
        )
    return Policy.from_json(metadata["bitwright.policy"], f"the policy in '{path}'")


def _first(outputs: Any) -> Tensor:
    while isinstance(outputs, (tuple, list)) and outputs:
        outputs = outputs[0]
    if not isinstance(outputs, Tensor):
        raise InvalidInput(
            f"parity compares outputs and needs a tensor, got {type(outputs).__name__}; "
            "wrap the model so that it returns its logits first"
        )
    return outputs


@dataclass
class _Tally:
    """Counts predictions: one for each sample, or one for each position of each sample."""

    samples: int = 0
    count: int = 0
    equal: int = 0
    targets: int = 0
    largest: float = 0.0
    hits: list[Tensor] = field(default_factory=list)

    def add(self, simulated: Tensor, found: Tensor, targets: Any) -> None:
        self.samples += len(simulated)
        self.largest = max(self.largest, float((simulated - found).abs().max()))
        if not has_classes(simulated, targets):
            return
        wanted, predicted = simulated.argmax(1), found.argmax(1)
        self.count += wanted.numel()
        self.equal += int((wanted == predicted).sum())
        if isinstance(targets, Tensor) and targets.shape == predicted.shape:
            self.hits.append((predicted == targets.cpu()).double().reshape(len(predicted), -1).mean(1))
            self.targets += targets.numel()

    @property
    def agreement(self) -> float | None:
        """Share of equal predictions."""
        return self.equal / self.count if self.count else None

    @property
    def accuracy(self) -> float | None:
        """Share of predictions that are right, where every batch had targets."""
        return float(torch.cat(self.hits).mean()) if self.count and self.targets == self.count else None

    @property
    def accuracy_interval(self) -> Interval | None:
        """As :func:`~bitwright.evaluation.evaluate` makes them."""
        if self.accuracy is None or self.samples < 2:
            return None
        values = torch.cat(self.hits)
        if self.count == self.samples:
            return wilson(round(float(values.sum())), self.samples)
        return bootstrap_mean(values.numpy())
