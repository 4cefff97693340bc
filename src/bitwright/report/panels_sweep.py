"""The analysis of single quantizers as plain data: each alone on beside each alone off, worst first."""

from __future__ import annotations

import math
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
        kl: KL to float with this one alone quantized, with its standard error.
        agreement: with float, this one alone quantized.
        sqnr: at the output, this one alone quantized.
        accuracy: this one alone quantized.
        gain: by how much the KL of the whole policy falls when this one is in float.
        share: of the worst KL, for a bar.
    """

    rank: int
    site: str
    width: str
    kl: str
    agreement: str
    sqnr: str
    accuracy: str
    gain: str
    share: float


@dataclass(frozen=True)
class SweepPanel:
    """The whole analysis.

    Attributes:
        sentence: what stands out.
        rows: worst first by KL with one alone quantized.
        notes: what the figures are.
    """

    sentence: str
    rows: tuple[SiteRow, ...]
    notes: tuple[str, ...]


def sweep_panel(on: Sweep, off: Sweep) -> SweepPanel:
    """Merge the two sweeps of one policy.

    Args:
        on: each quantizer alone on, from float.
        off: each alone off, from the policy.
    """
    gains = {row.label: off.base_row.kl - row.kl for row in off}
    worst = max((row.kl for row in on), default=0.0) or 1.0
    rows = tuple(
        SiteRow(
            rank,
            row.label,
            str(row.width),
            f"{text.significant(row.kl)} ± {text.significant(row.kl_error, 2)}",
            text.percent(row.agreement),
            f"{row.sqnr:.1f} dB" if math.isfinite(row.sqnr) else "nothing is lost",
            "–" if row.accuracy is None else text.percent(row.accuracy),
            text.significant(gains[row.label]) if row.label in gains else "–",
            row.kl / worst,
        )
        for rank, row in enumerate(on.rows, start=1)
    )
    total = sum(row.kl for row in on)
    most = on.covering(0.8)
    base = off.base_row
    sentence = (
        f"All together the KL to float is {text.significant(base.kl)} nats, the agreement with float "
        f"{text.percent(base.agreement)}. "
    )
    if total > 0:
        mends = max(gains, key=lambda label: gains[label]) if gains else ""
        sentence += f"Alone, {on.rows[0].label} does most harm; {most} of {len(rows)} make up 80 % of the sum. "
        if mends:
            sentence += f"Left in float, {mends} brings most back."
    else:
        sentence += "No site alone changes the outputs."
    notes = (
        f"Measured on {on.samples:,} calibration samples, worst first by KL to float: accuracy there is saturated.",
        f"Both sweeps took {text.duration(on.seconds + off.seconds)}.",
    )
    return SweepPanel(sentence.strip(), rows, notes)
