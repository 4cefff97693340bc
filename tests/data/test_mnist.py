"""MNIST in both layouts."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from bitwright.data import load_data
from bitwright.errors import InvalidData

X = np.random.RandomState(0).randint(0, 256, (5, 28, 28)).astype(np.uint8)
Y = np.array([3, 0, 9, 1, 3], np.uint8)


def idx(array: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def write_idx(folder: Path, separator: str = "-", zipped: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for part, size in (("train", 5), ("t10k", 2)):
        for kind, array in ((f"images{separator}idx3", X), (f"labels{separator}idx1", Y)):
            content = idx(array[:size])
            name = f"{part}-{kind}-ubyte" + (".gz" if zipped else "")
            (folder / name).write_bytes(gzip.compress(content) if zipped else content)


def check(data) -> None:
    assert (len(data.calibration), len(data.evaluation)) == (5, 2)
    x, y = data.calibration.read(0, 5)
    torch.testing.assert_close(x * 0.3081 + 0.1307, torch.from_numpy(X[:, None]).float() / 255)
    assert y.tolist() == Y.tolist()
    assert data.evaluation.read(0, 2)[1].tolist() == [3, 0]


def test_npz_layout(tmp_path):
    np.savez(tmp_path / "train.npz", x=X, y=Y)
    np.savez(tmp_path / "test.npz", x=X[:2], y=Y[:2])
    check(load_data(f"mnist:{tmp_path}"))


@pytest.mark.parametrize("inner", [".", "raw", "MNIST/raw"])
@pytest.mark.parametrize(("separator", "zipped"), [("-", False), ("-", True), (".", False)])
def test_idx_layout(inner, separator, zipped, tmp_path):
    write_idx(tmp_path / inner, separator, zipped)
    check(load_data(f"mnist:{tmp_path}"))


def test_own_normalisation(tmp_path):
    write_idx(tmp_path)
    x, _ = load_data(f"mnist:{tmp_path}?mean=0&std=1").calibration.read(0, 5)
    torch.testing.assert_close(x, torch.from_numpy(X[:, None]).float() / 255)


def test_a_missing_file_is_named(tmp_path):
    write_idx(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(InvalidData, match=r"does not hold MNIST: .* \(t10k-labels-idx1-ubyte is missing\)"):
        load_data(f"mnist:{tmp_path}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (idx(X)[:-3], r"train-images-idx3-ubyte is cut short: 3917 values for the shape \(5, 28, 28\)"),
        (b"rubbish that is long enough", r"is not an idx file of 8-bit values"),
        (b"\x00\x00\x08\x03\x00", r"is not an idx file"),
        (b"", r"is not an idx file"),
        (idx(X[:, :14]), r"must be uint8 \(N, 28, 28\), got uint8 \(5, 14, 28\)"),
        (idx(X[:4]), r"mnist calibration has 4 inputs and 5 targets"),
        (idx(X[:0]), r"mnist calibration has 0 inputs and 5 targets"),
    ],
)
def test_broken_files(content, message, tmp_path):
    write_idx(tmp_path)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(InvalidData, match=message):
        len(load_data(f"mnist:{tmp_path}").calibration)


def test_a_broken_gzip_file(tmp_path):
    write_idx(tmp_path, zipped=True)
    file = tmp_path / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(InvalidData, match=r"cannot read .*idx3-ubyte\.gz: it is not a complete gzip file"):
        len(load_data(f"mnist:{tmp_path}").calibration)


def test_the_real_images():
    if not os.environ.get("BITWRIGHT_DATA"):
        pytest.skip("BITWRIGHT_DATA is not set")
    data = load_data(f"mnist:{os.environ['BITWRIGHT_DATA']}/mnist")
    assert (len(data.calibration), len(data.evaluation)) == (17435, 10000)
    x, _ = data.calibration.read(0, 2000)
    assert x.shape == (2000, 1, 28, 28)
    assert abs(x.mean().item()) < 0.05
    assert abs(x.std().item() - 1) < 0.05
