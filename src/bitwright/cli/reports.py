"""Reading back what runs found."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bitwright.report import RunReport


def read_report(folder: Path) -> RunReport:
    """The report data of an output folder.

    Raises:
        StoreError: the folder has none.
        InvalidInput: it is not a report, or is damaged.
    """
    from bitwright.report import RunReport
    from bitwright.store import folder as files

    text = files.read_output(folder, files.REPORT_DATA, "bitwright run")
    return RunReport.from_json(text, f"'{folder / files.REPORT_DATA}'")
