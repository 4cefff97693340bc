"""The findings of a debugging flow as one self-contained HTML page."""

from __future__ import annotations

from bitwright.report.panels_debug import debug_panel
from bitwright.report.render import _page
from bitwright.values.findings import Findings


def render_debug(findings: Findings, title: str = "model") -> str:
    """The flow chart with the path taken, every step with its figures, and the recipe, as a page that works offline.

    Raises:
        MissingExtra: Jinja2 is not installed.
    """
    panel = debug_panel(findings)
    return _page("debug.html", {"sites": [], "overlay": [], "labels": []}, plots=False, title=title, panel=panel)
