from __future__ import annotations

import math

from bitwright.report.panels_sweep import sweep_panel
from bitwright.tasks import Classification
from bitwright.values.sweep import Sweep, SweepRow


def row(label, kl, bits=4, sqnr=20.0):
    figures = {"kl": kl, "agreement": 0.9}
    return SweepRow(label, (label,), (bits,), kl, kl / 10, sqnr, figures, dict.fromkeys(figures, 0.01))


def made(rows, base, base_row, labels, samples):
    return Sweep(
        rows, base, base_row, labels, samples, Classification.measures, "kl", "accuracy", {}, agreement="agreement"
    )


def sweeps():
    on = made((row("a", 0.4), row("b", 0.1), row("c", 0.0, sqnr=math.inf)), {}, row("base", 0.0), ("a", "b", "c"), 64)
    base = row("W4A4", 0.6)
    off = made((row("b", 0.2, None), row("a", 0.3, None), row("c", 0.65, None)), {"a": 4}, base, ("a", "b", "c"), 64)
    return on, off


def test_alone_on_and_alone_off_side_by_side():
    panel = sweep_panel(*sweeps())
    assert [one.site for one in panel.rows] == ["a", "b", "c"]
    assert [one.rank for one in panel.rows] == [1, 2, 3]
    assert [one.share for one in panel.rows] == [1.0, 0.25, 0.0]
    assert [one.gain for one in panel.rows] == ["0.300", "0.400", "-0.0500"]
    assert panel.rows[2].sqnr == "nothing is lost"
    assert panel.sentence == (
        "All together the KL to float is 0.600 nats, the agreement with float 90.0%. Alone, a does the most harm; 80 % "
        "of the sum comes from 1 of 3. Leaving b in float helps most."
    )
    assert panel.notes[0].startswith("Measured on 64 calibration samples")


def test_where_nothing_is_lost():
    quiet = made((row("a", 0.0),), {}, row("base", 0.0), ("a",), 8)
    assert sweep_panel(quiet, quiet).sentence.endswith("No site alone changes the outputs.")
