"""A short quantization-aware training as a repair: what rounding alone cannot mend, training often can."""

from __future__ import annotations

from typing import Any

from bitwright.graph.graph import Graph
from bitwright.repair.checks import checked_policy
from bitwright.repair.descriptor import registered
from bitwright.repair.report import Change, RepairReport
from bitwright.tasks import Task
from bitwright.train import qat as train
from bitwright.values import Policy


@registered(
    name="qat",
    order=95,
    does="Trains weights, steps and biases for a short time, so that the outputs follow the float network's.",
    needs="calibration data, the more the better; no targets",
    changes="grids, integers and biases at the policy's widths; the float network stays the same",
    costs="five float passes for each epoch",
    called="quantization-aware training",
    leaves="learned rounding",
    mends={"network": {}},
)
def qat(
    graph: Graph,
    batches: Any,
    policy: Policy | None = None,
    *,
    task: Task | str | None = None,
    epochs: int = 5,
    learning_rate: float = 0.01,
    seed: int = 0,
) -> RepairReport:
    """Train a quantized network on calibration data, see :func:`bitwright.train.qat`.

    It starts from the integers and steps that earlier repairs found. For a full training, on all training data and
    with checkpoints, use ``bitwright qat`` or ``bw.qat``.

    Args:
        graph: calibrated; its policy is left as it was.
        batches: calibration data; targets aren't looked at.
        policy: the widths; None for the current policy.
        task: what the outputs mean, as in :func:`~bitwright.tasks.evaluate`.
        epochs: passes over the data.
        learning_rate: the largest one, in grid steps for each step of the optimizer.
        seed: of the order of the samples.

    Returns:
        What was brought down, in the first and in the last epoch.

    Raises:
        InvalidInput: unknown options, no data, or no widths.
    """
    chosen = checked_policy(graph, "qat", policy)
    with graph.applied(chosen):
        found = train(graph, batches, task=task, epochs=epochs, learning_rate=learning_rate, shuffle=True, seed=seed)
    moved = {"moved": sum(epoch.moved for epoch in found.epochs)}
    change = Change("the network", "loss of imitation", found.epochs[0].loss, found.epochs[-1].loss, moved)
    return RepairReport(f"{found.samples} calibration samples", (change,), found.notes, found.samples)
