"""Tensors with their grids as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Sequence

from bitwright.report.panels_tensor import tensor_panel
from bitwright.report.render import _page
from bitwright.values.tensors import TensorView


def render_tensors(views: Sequence[TensorView], title: str = "tensors", note: str = "") -> str:
    """Each tensor with its histogram, its grid, and its slices by channel, token and embedding dimension.

    Args:
        views: from :func:`bitwright.debug.tensor_view`.
        title: of the page.
        note: a line under it, e.g. what the network was when they were looked at.

    Raises:
        MissingExtra: Jinja2 is not installed.
    """
    data: dict[str, object] = {"sites": [], "overlay": [], "labels": []}
    panels = [tensor_panel(view) for view in views]
    return _page("tensors.html", data, plots=False, title=title, note=note, tensors=panels)
