"""Data: sized, indexable sets of checked samples, built in or made by a user's own code.

Data is named by a spec such as ``"cifar10:DIR"``; see `bitwright.data.load`.

>>> from bitwright.data import load_data
>>> len(load_data("digits?limit=100").calibration)
100
"""

from __future__ import annotations

from bitwright.data.adopt import as_data, as_dataset
from bitwright.data.array_dataset import ArrayDataset, Preparation
from bitwright.data.canvas import Canvases, digits_on_canvas
from bitwright.data.dataset import Batches, Dataset, DataSets
from bitwright.data.load import load_data
from bitwright.data.source import DATA, Source

__all__ = [
    "DATA",
    "ArrayDataset",
    "Batches",
    "Canvases",
    "DataSets",
    "Dataset",
    "Preparation",
    "Source",
    "as_data",
    "as_dataset",
    "digits_on_canvas",
    "load_data",
]
