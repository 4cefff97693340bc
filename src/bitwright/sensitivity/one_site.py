"""What a sweep measures with each site alone quantized, as sensitivity methods that share one sweep."""

from __future__ import annotations

from functools import partial

from bitwright.sensitivity.evidence import Evidence
from bitwright.sensitivity.method import METHODS, Method, Scores
from bitwright.values.sweep import MEASURES


def one_site(evidence: Evidence, measure: str) -> Scores:
    """A measure of :func:`~bitwright.sensitivity.sweep.sweep`; the noise model and the tolerance do not matter."""
    table = evidence.sweep.table(measure)
    return Scores(table.harm, table.standard_error, table.samples, notes=table.notes)


for position, (measure, needs) in enumerate((("kl", "class logits"), ("loss", "targets"), ("accuracy", "targets"))):
    METHODS.register(
        Method(
            name=f"one-site-{measure}",
            order=40 + position,
            does=f"The {measure if measure != 'kl' else 'KL to float'} measured with each site alone quantized.",
            needs=needs,
            costs="half a pass for each site and width",
            unit=MEASURES[measure],
            given=("evidence", "measure"),
            function=partial(one_site, measure=measure),
        )
    )
