"""The findings of a debugging flow as one self-contained HTML page."""

from __future__ import annotations

from bitwright.report.panels_debug import debug_panel
from bitwright.report.render import _page
from bitwright.values.findings import Findings


def render_debug(findings: Findings, title: str = "model", command: str = "") -> str:
    """The flow chart with the path taken, every step with its figures, and the recipe, as a page that works offline.

    Args:
        findings: of the flow.
        title: of the page.
        command: applies the recipe, to be shown beside it.

    Raises:
        MissingExtra: Jinja2 is not installed.
    """
    panel = debug_panel(findings)
    data: dict[str, object] = {"sites": [], "overlay": [], "labels": []}
    return _page("debug.html", data, plots=False, title=title, panel=panel, command=command)
