"""The analysis of single quantizers as plain data: each alone on beside each alone off, worst first."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from bitwright.report import format as text
from bitwright.values.sweep import Sweep


@dataclass(frozen=True)
class SiteRow:
    """One site or block.

    Attributes:
        rank: 1 for the worst.
        site: its name.
        width: its bits.
        distance: to float with this one alone quantized, with its standard error.
        sqnr: at the output, this one alone quantized.
        figures: the others of the panel's headings, this one alone quantized.
        gain: by how much the distance of the whole policy falls when this one is in float; a dash where not measured.
        share: of the worst distance, for a bar.
    """

    rank: int
    site: str
    width: str
    distance: str
    sqnr: str
    figures: tuple[str, ...]
    gain: str
    share: float


@dataclass(frozen=True)
class SweepPanel:
    """The whole analysis.

    Attributes:
        sentence: what stands out.
        distance: the heading of the distance.
        headings: of the other figures.
        rows: worst first by distance with one alone quantized.
        notes: what the figures are.
    """

    sentence: str
    distance: str
    headings: tuple[str, ...]
    rows: tuple[SiteRow, ...]
    notes: tuple[str, ...]


def sweep_panel(on: Sweep, off: Sweep) -> SweepPanel:
    """Merge the two sweeps of one policy: each quantizer alone on, from float, and alone off, from the policy."""
    gains = {row.label: off.base_row.distance - row.distance for row in off}
    rows = site_rows(on, gains)
    total = sum(row.distance for row in on)
    most = on.covering(0.8)
    base = off.base_row
    measure = off.measure(off.distance)
    sentence = f"All together the {measure.words} is {text.significant(base.distance)} {measure.unit}".rstrip()
    if off.agreement in base.figures:
        sentence += f", the {off.agreement} with float {text.percent(base.figures[off.agreement])}"
    sentence += ". "
    if total > 0:
        mends = max(gains, key=lambda label: gains[label]) if gains else ""
        sentence += f"Alone, {on.rows[0].label} does the most harm; 80 % of the sum comes from {most} of {len(rows)}. "
        if mends:
            sentence += f"Leaving {mends} in float helps most."
    else:
        sentence += "No site alone changes the outputs."
    notes = (
        f"Measured on {on.samples:,} calibration samples, worst first by {measure.words}.",
        f"Both sweeps took {text.duration(on.seconds + off.seconds)}.",
    )
    headings = tuple(text.heading(measure) for measure in on.shown())
    return SweepPanel(sentence.strip(), text.heading(measure), headings, rows, notes)


def site_rows(sweep: Sweep, gains: Mapping[str, float] | None = None) -> tuple[SiteRow, ...]:
    """The rows of a sweep from float, worst first.

    Args:
        sweep: each quantizer alone on.
        gains: label -> by how much the distance of the whole policy falls when this one is in float.
    """
    worst = max((row.distance for row in sweep), default=0.0) or 1.0
    return tuple(
        SiteRow(
            rank,
            row.label,
            str(row.width),
            f"{text.significant(row.distance)} ± {text.significant(row.distance_error, 2)}",
            f"{row.sqnr:.1f} dB" if math.isfinite(row.sqnr) else "nothing is lost",
            tuple(text.value(measure, row.figures[measure.name]) for measure in sweep.shown()),
            text.significant(gains[row.label]) if gains and row.label in gains else "–",
            row.distance / worst,
        )
        for rank, row in enumerate(sweep.rows, start=1)
    )
