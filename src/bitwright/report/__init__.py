"""The report: panels as pure data, one HTML page that works offline, and the same panels on the terminal."""

from bitwright.report.compare import ComparePanel, compare_panel
from bitwright.report.panels import (
    FiguresPanel,
    SensitivityPanel,
    SitesPanel,
    figures_panel,
    headline,
    sensitivity_panel,
    sensitivity_rows,
    sites_panel,
)
from bitwright.report.panels_front import AgreementPanel, FrontPanel, agreement_from_front, agreement_panel, front_panel
from bitwright.report.panels_runtime import LatencyPanel, ParityPanel, latency_panel, parity_panel
from bitwright.report.render import render, render_compare
from bitwright.report.run_report import Agreement, Measured, Pair, RunReport

__all__ = [
    "Agreement",
    "AgreementPanel",
    "ComparePanel",
    "FiguresPanel",
    "FrontPanel",
    "LatencyPanel",
    "Measured",
    "Pair",
    "ParityPanel",
    "RunReport",
    "SensitivityPanel",
    "SitesPanel",
    "agreement_from_front",
    "agreement_panel",
    "compare_panel",
    "figures_panel",
    "front_panel",
    "headline",
    "latency_panel",
    "parity_panel",
    "render",
    "render_compare",
    "sensitivity_panel",
    "sensitivity_rows",
    "sites_panel",
]
