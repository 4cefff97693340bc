"""npz files: both layouts, the split, and unusable files."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bitwright.data import load_data
from bitwright.errors import InvalidData


def test_four_arrays(tmp_path):
    file = tmp_path / "four.npz"
    np.savez(
        file,
        x_calibration=np.full((3, 1, 2, 2), 255, np.uint8),
        y_calibration=np.array([0, 1, 0]),
        x_evaluation=np.full((2, 1, 2, 2), 2.5),
        y_evaluation=np.array([4, 0], np.uint8),
    )
    data = load_data(f"npz:{file}")
    x, y = data.calibration.read(0, 3)
    assert torch.equal(x, torch.ones(3, 1, 2, 2))
    assert y.tolist() == [0, 1, 0]
    x, y = data.evaluation.read(0, 2)
    assert torch.equal(x, torch.full((2, 1, 2, 2), 2.5))
    assert y.tolist() == [4, 0]
    assert data.calibration.classes == data.evaluation.classes == 5  # over both parts
    assert data.calibration.name == "four.npz calibration"


def test_two_arrays_are_halved_in_order(tmp_path):
    file = tmp_path / "two.npz"
    np.savez_compressed(file, x=np.arange(7.0)[:, None], y=np.arange(7))
    data = load_data(f"npz:{file}")
    assert data.calibration.read(0, 3)[0].flatten().tolist() == [0, 1, 2]
    assert data.evaluation.read(0, 4)[1].tolist() == [3, 4, 5, 6]
    assert (len(data.calibration), len(data.evaluation)) == (3, 4)


def test_shuffle_mixes_before_the_split_and_limit_comes_after(tmp_path):
    file = tmp_path / "two.npz"
    np.savez(file, x=np.arange(100.0)[:, None], y=np.repeat(np.arange(10), 10))
    data = load_data(f"npz:{file}?shuffle=0")
    calibration, evaluation = ([int(x) for x, _ in part] for part in (data.calibration, data.evaluation))
    assert sorted(calibration + evaluation) == list(range(100))
    assert max(calibration) > 60
    assert all(int(y) == int(x) // 10 for x, y in data.calibration)
    limited = load_data(f"npz:{file}?shuffle=0&limit=5")
    assert [int(x) for x, _ in limited.calibration] == calibration[:5]
    assert [int(x) for x, _ in limited.evaluation] == evaluation[:5]


def test_targets_of_pixels(tmp_path):
    file = tmp_path / "seg.npz"
    np.savez(file, x=np.zeros((4, 3, 8, 8), np.uint8), y=np.ones((4, 8, 8), np.uint8))
    x, y = load_data(f"npz:{file}").calibration.read(0, 2)
    assert (x.shape, y.shape) == ((2, 3, 8, 8), (2, 8, 8))
    assert load_data(f"npz:{file}").calibration.classes == 2


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((2, 1))}, r"must hold x_calibration, .*, or x and y; it holds x"),
        ({}, r"it holds nothing"),
        ({"x": np.zeros((1, 1)), "y": np.zeros(1, int)}, r"has one sample, and at least two are needed"),
        ({"x": np.zeros((0, 1)), "y": np.zeros(0, int)}, r"d\.npz has no samples"),
        ({"x": np.zeros((3, 1)), "y": np.zeros(2, int)}, r"d\.npz has 3 inputs and 2 targets"),
        ({"x": np.zeros((3, 1)), "y": np.zeros(3)}, r"the targets of d\.npz must be integers"),
        ({"x": np.zeros((3, 1)), "y": np.array([0, 1, -1])}, r"must be at least 0, got -1 in sample 2"),
        ({"x": np.full((4, 1), np.nan), "y": np.zeros(4, int)}, r"inputs of d\.npz calibration hold NaN"),
        ({"x": np.array([[{}], [{}]]), "y": np.zeros(2, int)}, r"cannot read the array 'x'"),
    ],
)
def test_unusable_content(arrays, message, tmp_path):
    np.savez(tmp_path / "d.npz", allow_pickle=True, **arrays)
    with pytest.raises(InvalidData, match=message) as caught:
        list(load_data(f"npz:{tmp_path / 'd.npz'}").calibration.batches(2))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"rubbish", b"PK\x03\x04rubbish"])
def test_unreadable_files(content, tmp_path):
    (tmp_path / "d.npz").write_bytes(content)
    with pytest.raises(InvalidData, match=r"cannot read .*d\.npz: it must be a \.npz file"):
        load_data(f"npz:{tmp_path / 'd.npz'}")


def test_a_single_array_is_no_npz(tmp_path):
    np.save(tmp_path / "d.npy", np.zeros(3))
    with pytest.raises(InvalidData, match=r"must be a \.npz file"):
        load_data(f"npz:{tmp_path / 'd.npy'}")


def test_a_damaged_array_is_named(tmp_path):
    file = tmp_path / "d.npz"
    np.savez_compressed(file, x=np.random.RandomState(0).rand(50, 20), y=np.arange(50))
    content = bytearray(file.read_bytes())
    content[1000:1100] = bytes(100)
    file.write_bytes(content)
    with pytest.raises(InvalidData, match="cannot read the array 'x' of"):
        load_data(f"npz:{file}")
