"""The files of a run's output folder, each written whole or not at all, and what they say about where it ran."""

from __future__ import annotations

import csv
import importlib.metadata
import importlib.util
import io
import os
import platform
from pathlib import Path
from typing import Any

import torch

import bitwright
from bitwright.errors import MissingExtra
from bitwright.registry import registry_of
from bitwright.report import RunReport, render
from bitwright.settings import Settings
from bitwright.store import folder as files
from bitwright.store import write_atomically
from bitwright.values import SensitivityTable


def check_extras(settings: Settings) -> None:
    """Check before the work, not after it, whether a package is missing."""
    for package in ("jinja2", "plotly"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtra(package, "report", "to write the HTML report")
    if settings.runtime != "none":
        registry_of("runtime")[settings.runtime].require()


def write_tables(folder: str | Path, tables: tuple[SensitivityTable, ...]) -> None:
    """The first table as JSON, and all of them as CSV: one row for each method, site and width."""
    tables[0].save(Path(folder) / files.SENSITIVITY_JSON)
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["method", "site", "bits", "harm", "standard_error", "unit", "not_trusted"])
    for table in tables:
        errors = table.standard_error
        for i, site in enumerate(table.sites):
            for j, bits in enumerate(table.bits):
                error = "" if errors is None else repr(float(errors[i, j]))
                harm, doubt = repr(float(table.harm[i, j])), table.doubts.get(site, "")
                rows.writerow([table.method, site, bits, harm, error, table.unit, doubt])
    write_atomically(Path(folder) / files.SENSITIVITY_CSV, text.getvalue())


def write_report(folder: str | Path, report: RunReport) -> None:
    """The report's data and its page."""
    report.save(Path(folder) / files.REPORT_DATA)
    write_atomically(Path(folder) / files.REPORT, render(report))


def environment(device: Any) -> dict[str, str]:
    """Versions, machine, threads and device."""
    found = {"bitwright": bitwright.__version__, "python": platform.python_version()}
    runtimes = [package for runtime in registry_of("runtime").values() for package in runtime.packages]
    for package in ("torch", "torchao", "numpy", "scipy", *runtimes):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    found["system"] = f"{platform.system()} {platform.machine()}"
    found["processor"] = _processor()
    found["processors"] = str(os.cpu_count())
    found["threads"] = str(torch.get_num_threads())
    found["device"] = str(device)
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
