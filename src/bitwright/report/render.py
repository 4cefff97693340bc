"""Panels to one self-contained HTML page: no file beside it, no request to anywhere."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bitwright.errors import MissingExtra
from bitwright.report import format as text
from bitwright.report.compare import compare_panel
from bitwright.report.panels import figures_panel, headline, sensitivity_panel, sites_panel, target_line
from bitwright.report.panels_behavior import behavior_panel, turned_headings
from bitwright.report.panels_behaviors import behaviors_panel
from bitwright.report.panels_debug import debug_panel
from bitwright.report.panels_front import front_panel, point_figures
from bitwright.report.panels_runtime import latency_panel, parity_panel
from bitwright.report.panels_searched import searched_panel
from bitwright.report.panels_sweep import sweep_panel
from bitwright.report.panels_tensor import tensor_panel
from bitwright.report.panels_trained import trained_panel
from bitwright.report.run_report import RunReport
from bitwright.values import FLOAT, Front, Sites, Verdict
from bitwright.values.behavior import Behavior, Behaviors
from bitwright.values.findings import Findings
from bitwright.values.searched import Searched
from bitwright.values.sweep import Sweep
from bitwright.values.tensors import TensorView
from bitwright.values.trained import Trained

TEMPLATES = Path(__file__).parent / "templates"
_PURPOSE = "to write the HTML report"
_NO_PLOTS: Mapping[str, Any] = {"sites": [], "overlay": [], "labels": []}


def render(report: RunReport) -> str:
    """The report of one run as one HTML page that works offline."""
    chosen = report.chosen
    front = report.front
    front_data = front_panel(front, report.sites, report.baselines, chosen) if front is not None and front else None
    sites = sites_panel(report.sites, chosen.policy if chosen else FLOAT)
    agreements = [agreement for agreement in report.agreements if agreement.pairs]
    tables = [sensitivity_panel(t, report.sites) for t in report.tables]
    figures = [point_figures(p, front_data.unit) for p in front_data.points] if front_data else []
    data = {
        "sites": sites.rows,
        "stages": {"weight": sites.weight_stages, "activation": sites.activation_stages},
        "chosen": [row.bits for row in sites.rows] if chosen else None,
        "front": front_data,
        "figures": figures,
        "agreement": agreements,
        "sensitivity": tables,
    }
    return _page(
        "report.html",
        data,
        plots=front_data is not None or bool(agreements),
        title=report.title,
        report=report,
        headline=headline(report),
        target=target_line(report),
        asked=text.settings(report.job),
        figures=figures_panel(report),
        front=front_data,
        front_figures=figures,
        agreements=agreements,
        tables=tables,
        sites=sites,
        parity=parity_panel(report.parity) if report.parity else None,
        latency=latency_panel(report.latency),
        environment=text.settings(report.environment),
        timings=[(step, text.duration(seconds)) for step, seconds in report.timings.items()],
        policy_json=chosen.policy.to_json() if chosen else "",
    )


def render_compare(
    reports: Sequence[RunReport],
    names: Sequence[str] | None = None,
    differing: Sequence[tuple[str, Sequence[tuple[str, str, str]]]] = (),
) -> str:
    """Two or more runs side by side as one HTML page that works offline.

    Args:
        reports: of the runs.
        names: of the runs.
        differing: for each later run, how it differs from the first on the same inputs, in words, and inputs on which
            it does: (their number, what was decided, the address of a picture, a text or "").
    """
    panel = compare_panel(reports, names)
    fronts: list[Front] = [r.front for r in reports if r.front is not None and len(r.front)]
    overlay = []
    if fronts and all(front.cost == fronts[0].cost for front in fronts):
        for column, report in zip(panel.columns, reports, strict=True):
            if report.front is not None and len(report.front):
                points = front_panel(report.front, report.sites, (), report.chosen)
                overlay.append({"label": column.label, "front": points})
    data = {**_NO_PLOTS, "overlay": overlay, "labels": [column.label for column in panel.columns]}
    title = "Comparison: " + ", ".join(column.label for column in panel.columns)
    return _page(
        "compare.html", data, plots=bool(overlay), title=title, panel=panel, overlay=bool(overlay), differing=differing
    )


def render_debug(findings: Findings, title: str = "model", command: str = "") -> str:
    """The flow chart with the path taken, every step with its figures, and the recipe, as a page that works offline."""
    panel = debug_panel(findings)
    return _page("debug.html", _NO_PLOTS, plots=False, title=title, findings=findings, panel=panel, command=command)


def render_sweep(on: Sweep, off: Sweep, title: str = "model") -> str:
    """Each quantizer alone on and alone off, in one table, worst first; errors as for :func:`render_debug`."""
    return _page("sweep.html", _NO_PLOTS, plots=False, title=title, panel=sweep_panel(on, off))


def render_behavior(found: Behavior, title: str = "model", pictures: Sequence[str] = ()) -> str:
    """Disagreements under shifts, examples, indicators and the guard; errors as for :func:`render_debug`.

    Args:
        found: by the study.
        title: of the page.
        pictures: addresses of images, or texts, one for each example, or none at all.
    """
    panel = behavior_panel(found, pictures)
    headings = turned_headings(found)
    return _page("behavior.html", _NO_PLOTS, plots=False, title=title, panel=panel, turned_headings=headings)


def render_behaviors(found: Behaviors, title: str = "model", shown: Mapping[str, Sequence[str]] | None = None) -> str:
    """Several quantized networks side by side under shifts; errors as for :func:`render_debug`.

    Args:
        found: by the study.
        title: of the page.
        shown: of each network the addresses of images, or texts, one for each example.
    """
    return _page("behaviors.html", _NO_PLOTS, plots=False, title=title, panel=behaviors_panel(found, shown))


def render_searched(searched: Searched, sites: Sites, verdicts: Mapping[str, Verdict], title: str = "model") -> str:
    """The course of a search by gradients, the bits of every site and attributions side by side.

    Args:
        searched: what was found.
        sites: of the network.
        verdicts: of policies on the evaluation data, by their names; the policy that was found last.
        title: of the page.

    Raises:
        MissingExtra: Jinja2 is not installed.
    """
    panel = searched_panel(searched, sites, verdicts)
    return _page("gmpq.html", _NO_PLOTS, plots=False, title=title, panel=panel)


def render_trained(course: Trained, verdicts: Mapping[str, Verdict], title: str = "model") -> str:
    """The course of a training, and what became of every site.

    Args:
        course: of the training.
        verdicts: on the evaluation data, by name; that of the trained network last.
        title: of the page.

    Raises:
        MissingExtra: Jinja2 is not installed.
    """
    panel = trained_panel(course, verdicts)
    return _page("training.html", _NO_PLOTS, plots=False, title=title, panel=panel)


def render_tensors(views: Sequence[TensorView], title: str = "tensors", note: str = "") -> str:
    """Each tensor with its histogram, its grid, and its slices by channel, token and embedding dimension."""
    panels = [tensor_panel(view) for view in views]
    return _page("tensors.html", _NO_PLOTS, plots=False, title=title, note=note, tensors=panels)


def plain(value: Any) -> Any:
    """Panels as plain data for the page's script: dataclasses as objects, numbers that are not finite as null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def script_json(value: Any) -> str:
    """JSON that is safe inside a script element, whatever names it holds."""
    dumped = json.dumps(plain(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return dumped.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _minus(value: object) -> str:
    """Hyphens that stand for a minus sign as minus signs."""
    return re.sub(r"(^|[\s\[(])-(?=\d)", "\\1\N{MINUS SIGN}", str(value))


def _plotly_script() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise MissingExtra("plotly", "report", _PURPOSE) from None
    return str(get_plotlyjs()).replace("</script", "<\\/script")


def _page(template: str, data: Mapping[str, Any], *, plots: bool, **context: Any) -> str:
    try:
        import jinja2
        from markupsafe import Markup
    except ImportError:
        raise MissingExtra("jinja2", "report", _PURPOSE) from None
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(
        breakable=lambda name: Markup("<wbr>").join(re.split(r"(?<=[./])", str(name))),
        minus=_minus,
        unbroken=lambda sentence: re.sub(r"(\[[^],]*,) ", "\\1\N{NO-BREAK SPACE}", str(sentence)),
        percent=text.percent,
        duration=text.duration,
        figure_value=lambda figure: text.interval(figure.measure, figure.value, unit=False),
        figure_change=lambda figure: text.change(figure, unit=False),
        significant=text.significant,
    )
    environment.globals.update(cost_text=text.cost, metric_name=text.metric_name)
    return environment.get_template(template).render(
        style=Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),
        scripts=[Markup((TEMPLATES / name).read_text(encoding="utf-8")) for name in ("page.js", "plots.js")],
        plotly=Markup(_plotly_script()) if plots else "",
        data=Markup(script_json(data)),
        **context,
    )
