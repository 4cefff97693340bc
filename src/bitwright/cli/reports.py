"""Reading back what runs found."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bitwright.errors import InvalidInput

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
    try:
        return RunReport.from_json(text)
    except (InvalidInput, KeyError, TypeError) as error:
        reason = str(error) if isinstance(error, InvalidInput) else f"it is damaged ({type(error).__name__}: {error})"
        raise InvalidInput(f"'{folder / files.REPORT_DATA}' cannot be used: {reason}") from None
