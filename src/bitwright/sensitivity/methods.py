"""Scoring the sites: one entry for all methods, which share their passes over the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bitwright.arguments import checked
from bitwright.graph.batches import as_batches
from bitwright.graph.graph import Graph
from bitwright.sensitivity.evidence import Evidence, Progress
from bitwright.sensitivity.method import METHODS
from bitwright.sensitivity.noise import check_noise, checked_widths
from bitwright.settings import DEFAULTS
from bitwright.tasks import Task, task_for
from bitwright.tasks.base import Loss
from bitwright.values import SensitivityTable


@checked
def sensitivity(
    graph: Graph,
    batches: Any,
    method: str = DEFAULTS.method,
    bits: Sequence[int] = DEFAULTS.bits,
    *,
    noise: str = "projected",
    task: Task | str | None = None,
    loss: Loss | None = None,
    samples: int | None = None,
    tolerance: float | None = None,
    progress: Progress | None = None,
) -> SensitivityTable:
    """Score every site at every width with one method; see :func:`sensitivities` for the arguments."""
    return sensitivities(
        graph,
        batches,
        (method,),
        bits,
        noise=noise,
        task=task,
        loss=loss,
        samples=samples,
        tolerance=tolerance,
        progress=progress,
    )[0]


def sensitivities(
    graph: Graph,
    batches: Any,
    methods: Sequence[str],
    bits: Sequence[int] = DEFAULTS.bits,
    *,
    noise: str = "projected",
    task: Task | str | None = None,
    loss: Loss | None = None,
    samples: int | None = None,
    tolerance: float | None = None,
    progress: Progress | None = None,
) -> list[SensitivityTable]:
    """Score every site at every width with several methods that share their forward passes.

    What each of them computes stands beside its function: :mod:`~bitwright.sensitivity.fit`,
    :mod:`~bitwright.sensitivity.margin_fit`, :mod:`~bitwright.sensitivity.rounding_noise`, and
    :mod:`~bitwright.sensitivity.one_site`, for which ``noise`` and ``tolerance`` do not matter.

    Where ``noise`` is ``"uniform"`` (step^2 / 12, the FIT paper's) or ``"measured"`` (mean((Q(t) - t)^2)), errors are
    taken to be independent of the gradient. That holds at 8 bits. At low widths they are not: values that are clipped
    or rounded to zero all err in one direction. ``"projected"`` multiplies each sample's gradient by its own
    rounding error instead, delta = grad . (Q(t) - t). FIT takes the second moment of delta. Margin-FIT takes twice that
    of its harmful half: a decrease of the margin that is more than a common rescaling of all margins, which flips
    nothing. For errors that are white the three noise models agree.

    Harms never rise with bits; ``doubts`` of a table names the sites where they did, or that the scores do not know
    well for another reason (:meth:`~bitwright.values.SensitivityTable.checked`).

    Args:
        graph: calibrated; its policy is left as it was.
        batches: iterable of (inputs, targets); margin-fit needs no targets.
        methods: which tables to make.
        bits: widths to score.
        noise: ``"projected"``, ``"measured"`` or ``"uniform"``.
        task: what the outputs mean, as in :func:`~bitwright.tasks.evaluate`.
        loss: (outputs, targets) -> (N, ...) losses in place of the task's own.
        samples: stop after this many inputs; None uses all.
        tolerance: stop once the relative standard error of every site's trace is below this.
        progress: called with (samples done, samples asked for or None).

    Returns:
        One table for each method, in their order.

    Raises:
        InvalidInput: unknown method, not calibrated, or outputs that don't suit the method.
        InvalidData: no data, or targets outside the classes.
    """
    chosen = tuple(METHODS[method] for method in methods)
    check_noise(noise)
    widths = checked_widths(bits)
    data = as_batches(batches)
    meant = task_for(graph, data, task, loss, purpose="sensitivity")
    evidence = Evidence(graph, data, widths, chosen, meant, noise, samples, tolerance, progress)
    tables = []
    for method in chosen:
        found = method.function(evidence)
        table = SensitivityTable(
            method.name,
            found.unit or method.unit,
            graph.sites.names,
            widths,
            found.harm,
            found.standard_error,
            found.samples,
            graph.graph_hash,
            found.model,
            found.parts,
            found.doubts,
            found.notes,
        )
        tables.append(table.checked())
    return tables
