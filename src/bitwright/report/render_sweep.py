"""The analysis of single quantizers as one self-contained HTML page."""

from __future__ import annotations

from bitwright.report.panels_sweep import sweep_panel
from bitwright.report.render import _page
from bitwright.values.sweep import Sweep


def render_sweep(on: Sweep, off: Sweep, title: str = "model") -> str:
    """Each quantizer alone on and alone off, in one table, worst first.

    Raises:
        MissingExtra: Jinja2 is not installed.
    """
    data: dict[str, object] = {"sites": [], "overlay": [], "labels": []}
    return _page("sweep.html", data, plots=False, title=title, panel=sweep_panel(on, off))
