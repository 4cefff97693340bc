"""Batch norms folded into the layers in front of them: capture does it; this says what was folded."""

from __future__ import annotations

from typing import Any

from bitwright.graph.graph import Graph
from bitwright.graph.names import layer_name
from bitwright.graph.operations import entry_of
from bitwright.graph.pt2e import BATCH_NORMS
from bitwright.repair.descriptor import registered
from bitwright.repair.report import RepairReport


@registered(
    name="fold",
    order=10,
    does="Batch-norm folding: each batch norm goes into the layer in front of it.",
    changes="nothing: capture has folded all that can be; it says which, and what stays in float",
    costs="nothing",
    lasting=True,
)
def fold(graph: Graph, batches: Any = None) -> RepairReport:
    """Say which batch norms were folded, and which stay in float and why.

    :func:`~bitwright.graph.capture` folds every batch norm that directly follows a convolution or a linear layer into
    its weight and bias; the float function stays what it is. Nothing is left for this repair to change: it is here so
    that the question has an answer.

    Args:
        graph: from :func:`~bitwright.graph.capture`.
        batches: not needed.
    """
    left = [layer_name(node) for node in graph.module.graph.nodes if entry_of(node).kind == "batch_norm"]
    folded = [name for name in graph.module.meta.get(BATCH_NORMS, ()) if name not in left]
    if folded:
        notes = [f"capture has folded {_count(folded)} into the layers in front of them ({_listed(folded)})"]
    else:
        notes = ["there was no batch norm to fold" if not left else "no batch norm could be folded"]
    if left:
        verb = "stays" if len(left) == 1 else "stay"
        notes.append(f"{_count(left)} with no convolution or linear layer in front {verb} in float ({_listed(left)})")
    return RepairReport("nothing", notes=tuple(notes))


def _count(names: list[str]) -> str:
    return f"{len(names)} batch norm{'s' if len(names) > 1 else ''}"


def _listed(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{names[0]}, {names[1]}, ..., {names[-1]}"
