"""CIFAR-10 in both layouts."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from bitwright.data import load_data
from bitwright.errors import InvalidData


def images(size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.RandomState(seed)
    return random.randint(0, 256, (size, 3, 32, 32)).astype(np.uint8), random.randint(0, 10, size)


def write_batches(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate([*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]):
        x, y = images(4, index)
        content = {b"data": x.reshape(4, -1), b"labels": y.tolist(), b"batch_label": b"one"}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))


def test_npz_layout_is_normalised(tmp_path):
    x, y = images(6, 0)
    np.savez(tmp_path / "train.npz", x=x, y=y.astype(np.uint8))
    np.savez(tmp_path / "test.npz", x=x[:2], y=y[:2].astype(np.uint8))
    data = load_data(f"cifar10:{tmp_path}")
    assert (len(data.calibration), len(data.evaluation)) == (6, 2)
    read, targets = data.calibration.read(0, 6)
    assert targets.tolist() == y.tolist()
    mean = torch.tensor([0.485, 0.456, 0.406]).reshape(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).reshape(3, 1, 1)
    torch.testing.assert_close(read * std + mean, torch.from_numpy(x).float() / 255)
    assert data.calibration.classes == 10


@pytest.mark.parametrize("inner", [".", "cifar-10-batches-py"])
def test_published_layout(inner, tmp_path):
    write_batches(tmp_path / inner)
    data = load_data(f"cifar10:{tmp_path}?mean=0&std=1")
    assert (len(data.calibration), len(data.evaluation)) == (20, 4)
    x, y = images(4, 1)
    read, targets = data.calibration.read(4, 8)
    torch.testing.assert_close(read, torch.from_numpy(x).float() / 255)
    assert targets.tolist() == y.tolist()
    x, y = images(4, 5)
    assert data.evaluation.read(0, 4)[1].tolist() == y.tolist()


class Harmful:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def test_a_batch_that_would_run_code_is_refused(tmp_path):
    write_batches(tmp_path)
    trace = tmp_path / "code was run"
    (tmp_path / "test_batch").write_bytes(pickle.dumps({b"data": Harmful(trace), b"labels": [1]}))
    data = load_data(f"cifar10:{tmp_path}")
    with pytest.raises(InvalidData, match=r"cannot read .*test_batch: it is not a batch of the python version"):
        len(data.evaluation)
    assert not trace.exists()
    assert len(data.calibration) == 20


@pytest.mark.parametrize("content", [b"", b"rubbish", pickle.dumps([1]), pickle.dumps({b"data": [1], b"labels": [1]})])
def test_broken_batches(content, tmp_path):
    write_batches(tmp_path)
    (tmp_path / "data_batch_3").write_bytes(content)
    with pytest.raises(InvalidData, match=r"cannot read .*data_batch_3"):
        len(load_data(f"cifar10:{tmp_path}").calibration)


def test_neither_layout(tmp_path):
    with pytest.raises(InvalidData, match=r"does not hold CIFAR-10: it must hold train\.npz"):
        load_data(f"cifar10:{tmp_path}")


def test_wrong_shape_and_targets(tmp_path):
    x, y = images(4, 0)
    np.savez(tmp_path / "train.npz", x=x.transpose(0, 2, 3, 1), y=y)
    np.savez(tmp_path / "test.npz", x=x, y=y + 10)
    data = load_data(f"cifar10:{tmp_path}")
    with pytest.raises(InvalidData, match=r"must be uint8 \(N, 3, 32, 32\), got uint8 \(4, 32, 32, 3\)"):
        len(data.calibration)
    with pytest.raises(InvalidData, match=r"the targets of cifar10 evaluation must be between 0 and 9, got 1\d"):
        len(data.evaluation)


def test_the_real_images():
    if not os.environ.get("BITWRIGHT_DATA"):
        pytest.skip("BITWRIGHT_DATA is not set")
    data = load_data(f"cifar10:{os.environ['BITWRIGHT_DATA']}/cifar10?limit=512")
    x, y = data.calibration.read(0, 512)
    assert x.shape == (512, 3, 32, 32)
    assert torch.bincount(y, minlength=10).min() > 30
    assert x.mean().abs() < 0.2
    assert 0.8 < x.std() < 1.2
    assert data.calibration.fingerprint() != data.evaluation.fingerprint()
