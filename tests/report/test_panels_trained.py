"""What the page of a training shows."""

from __future__ import annotations

from bitwright.report.panels_trained import trained_panel
from bitwright.report.render import render_trained
from bitwright.values.trained import Epoch, Trained, TrainedSite
from verdicts import classified as verdict


def course(best=2, held=True):
    epochs = tuple(
        Epoch(1.0 / n, 0.5 / n if held else None, 0.8 if held else None, 0.1 / n, 0.01, 1 - n / 2) for n in (1, 2)
    )
    sites = (TrainedSite("x", 8, 1.25, None, None), TrainedSite("conv.weight", 4, 0.5, 0.25, 0.03125))
    return Trained("W4A8", epochs, 1.0 if held else None, best, 1234, 0.0, (0.5, 0.875, 1.25), sites, 12.0, ("Note.",))


def test_curves_begin_at_the_start_and_fill_their_area():
    panel = trained_panel(course(), {"W4A8": verdict(), "W4A8, trained": verdict()})
    curves = {curve.label.partition(",")[0]: curve.points for curve in panel.curves}
    assert curves["Loss"] == "0.0,0.0 300.0,90.0"
    (held,) = (c.points for c in panel.curves if c.label.endswith("held out") and len(c.points.split()) == 3)
    assert held == "0.0,0.0 150.0,60.0 300.0,90.0"  # 1, 0.5 and 0.25 between 1 and 0.25
    assert len(panel.curves) == 6
    assert "1,234 samples" in panel.sentence
    assert "epoch 2 is taken" in panel.sentence
    assert [(row.step, row.changed, row.oscillating) for row in panel.sites] == [
        ("1.25", "", ""),
        ("0.50", "25.0%", "3.1%"),
    ]


def test_what_was_not_held_out_has_no_curves():
    panel = trained_panel(course(best=0, held=False), {"W4A8, trained": verdict()})
    assert not [curve for curve in panel.curves if "held out" in curve.label]
    assert "the start is kept" in panel.sentence


def test_the_page_has_it_all():
    page = render_trained(course(), {"W4A8": verdict(), "W4A8, trained": verdict()}, "net")
    for word in ("W4A8, trained", "conv.<wbr>weight", "25.0%", "Weights that went back", "Note.", "<polyline"):
        assert word in page, word
