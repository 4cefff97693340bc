"""``digits``: the 8x8 images of handwritten digits that come with scikit-learn (Alpaydin and Kaynak 1998).

1,797 images of 10 classes as (N, 1, 8, 8), 17 grey levels scaled to [0, 1]. They come without a split: here a
fixed permutation makes the first 1,297 the training (calibration) part and the other 500 the test part.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from bitwright.data.array_dataset import ArrayDataset, Preparation
from bitwright.data.dataset import DataSets
from bitwright.data.source import DATA, Source
from bitwright.errors import MissingExtra

TRAIN_SIZE = 1297


def load_digits(preparation: Preparation | None = None) -> DataSets:
    """Return the training part as calibration data and the test part as evaluation data."""
    x, y = _read()
    return DataSets(
        ArrayDataset("digits calibration", lambda: (x[:TRAIN_SIZE], y[:TRAIN_SIZE]), preparation, classes=10),
        ArrayDataset("digits evaluation", lambda: (x[TRAIN_SIZE:], y[TRAIN_SIZE:]), preparation, classes=10),
    )


@cache
def _read() -> tuple[Any, Any]:
    try:
        from sklearn import datasets
    except ImportError as error:
        raise MissingExtra("scikit-learn", "digits", "for the data 'digits'") from error
    images, targets = datasets.load_digits(return_X_y=True)
    order = np.random.RandomState(0).permutation(len(images))
    x = (images / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    return x[order], targets[order]


DATA.register(
    Source(
        name="digits",
        order=10,
        does="scikit-learn's 1,797 handwritten digits, 8x8, no download.",
        needs="scikit-learn",
        function=lambda place, preparation: load_digits(preparation),
    )
)
