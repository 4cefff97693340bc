"""Data: ``csv:FILE``, a table with a header, one sample a row, whose last column is the class."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bitwright.data import ArrayDataset, DataSets, Preparation, Source
from bitwright.errors import InvalidData


def load_csv(place: Path, preparation: Preparation, share: int = 50) -> DataSets:
    """The first ``share`` percent of the rows are calibration data, the rest evaluation data.

    Columns are brought to mean 0 and deviation 1, measured on the calibration rows.
    """
    try:
        rows = np.loadtxt(place, delimiter=",", skiprows=1, ndmin=2)
    except ValueError as error:
        raise InvalidData(f"{place} must be a table of numbers with one header line: {error}") from None
    cut = len(rows) * share // 100
    if not 0 < cut < len(rows):
        raise InvalidData(f"{place} has {len(rows)} rows, of which {share}% leave nothing on one side")
    x, y = rows[:, :-1], rows[:, -1].astype(np.int64)
    x = ((x - x[:cut].mean(0)) / np.maximum(x[:cut].std(0), 1e-12)).astype(np.float32)
    parts = {"calibration": slice(None, cut), "evaluation": slice(cut, None)}
    return DataSets(
        *(
            ArrayDataset(f"{place.name} {part}", lambda rows=rows: (x[rows], y[rows]), preparation, int(y.max()) + 1)
            for part, rows in parts.items()
        )
    )


CSV = Source(name="csv", does="A table of numbers whose last column is the class.", path="FILE", function=load_csv)
