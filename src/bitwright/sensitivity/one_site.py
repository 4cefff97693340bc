"""What a sweep measures with each site alone quantized, as sensitivity methods that share one sweep."""

from __future__ import annotations

from functools import partial

from bitwright.sensitivity.evidence import Evidence
from bitwright.sensitivity.method import METHODS, Method, Scores


def one_site(evidence: Evidence, measure: str) -> Scores:
    """A measure of :func:`~bitwright.sensitivity.sweep.sweep`; the noise model and the tolerance do not matter."""
    table = evidence.sweep.table(measure)
    return Scores(table.harm, table.standard_error, table.samples, unit=table.unit, notes=table.notes)


ABOUT = (
    ("distance", "The distance to float", "nothing", "distance to float, in the task's unit"),
    ("loss", "The increase of the loss", "targets", "increase of the loss over float's"),
    (
        "primary",
        "What is lost of the task's primary figure",
        "targets, where the task needs them",
        "loss against float",
    ),
)

for position, (measure, what, needs, unit) in enumerate(ABOUT):
    METHODS.register(
        Method(
            name=f"one-site-{measure}",
            order=40 + position,
            does=f"{what}, measured with each site alone quantized.",
            needs=needs,
            costs="half a pass for each site and width",
            unit=unit,
            given=("evidence", "measure"),
            function=partial(one_site, measure=measure),
        )
    )
