"""Figures of policies on the terminal, and reading back what runs found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType

    from bitwright.report import RunReport
    from bitwright.values import Policy, Sites, Verdict


def figures_of(rows: Sequence[tuple[Policy, Verdict]], sites: Sites, runtime: str) -> RenderableType:
    """Figures and costs of some policies beside float's; the last one is the chosen one."""
    from bitwright.cost import costs_for, costs_of
    from bitwright.report import Measured, RunReport
    from bitwright.report.terminal import verdict_table
    from bitwright.values import FLOAT

    models = costs_for(runtime)
    *others, chosen = (Measured(policy, costs_of(policy, sites, models), verdict) for policy, verdict in rows)
    floats = costs_of(FLOAT, sites, models)
    return verdict_table(RunReport("", sites, float_costs=floats, chosen=chosen, baselines=tuple(others)))


def read_report(folder: Path) -> RunReport:
    """The report data of an output folder."""
    from bitwright.report import RunReport
    from bitwright.store import folder as files

    text = files.read_output(folder, files.REPORT_DATA, "bitwright run")
    return RunReport.from_json(text, f"'{folder / files.REPORT_DATA}'")


def read_lines(file: Path, flag: str) -> list[str]:
    """The lines of a text file that a flag names."""
    from bitwright.errors import InvalidInput

    try:
        return file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{flag} must be a readable text file, got '{file}': {error}") from None
