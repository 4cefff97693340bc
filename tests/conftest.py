"""Fixtures that several rooms share: one small network, trained once."""

from __future__ import annotations

import contextlib
import copy
import gc
import sqlite3
import warnings

import pytest
import torch

from bitwright.store import STORE_NAME

torch.set_num_threads(1)
gc.set_threshold(100_000, 20, 20)  # captures and exports allocate so much that the defaults take a tenth of the time


@pytest.fixture(autouse=True)
def _seed():
    """The same random numbers whatever ran before."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def digits_model():
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    from bitwright.zoo.example import train_digits_network

    return train_digits_network()


@pytest.fixture(scope="session")
def digits_data():
    """Calibration and test images of the digits: (inputs, targets) each."""
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    from bitwright.data.digits import load_digits

    data = load_digits()
    return data.calibration.read(0, 512), data.evaluation.read(0, len(data.evaluation))


@pytest.fixture(scope="session")
def _captured_digits(digits_model, digits_data):
    from bitwright.graph import calibrate, capture

    inputs, targets = digits_data[0]
    return calibrate(capture(digits_model, inputs[:2]), [(inputs[:256], targets[:256])])


@pytest.fixture
def digits_graph(_captured_digits):
    """The trained network, captured and calibrated; a copy for each test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch.utils._pytree's own, while it copies
        return copy.deepcopy(_captured_digits)


@pytest.fixture(scope="session")
def stored():
    """(key, kind) of each measurement in the store of a folder."""

    def read(folder):
        with contextlib.closing(sqlite3.connect(folder / STORE_NAME)) as connection:
            return connection.execute("SELECT key, kind FROM measurements").fetchall()

    return read
