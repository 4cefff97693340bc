"""Corrupted test sets as they were published, on small files of the same layout."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bitwright.data.published import load_published
from bitwright.errors import InvalidData, InvalidInput


def test_cifar10_c_holds_one_severity_after_the_other(tmp_path):
    x = np.random.RandomState(0).randint(0, 256, (15, 32, 32, 3), dtype=np.uint8)
    y = np.array([1, 2, 3] * 5, dtype=np.uint8)
    np.save(tmp_path / "fog.npy", x)
    np.save(tmp_path / "labels.npy", y)
    found = load_published(f"cifar10-c:{tmp_path}?mean=0&std=1")
    assert {name: sorted(each) for name, each in found.items()} == {"fog": [1, 2, 3, 4, 5]}
    inputs, targets = found["fog"][2].read(0, 3)
    torch.testing.assert_close(inputs, torch.from_numpy(x[3:6].transpose(0, 3, 1, 2)).float() / 255)
    assert targets.tolist() == [1, 2, 3]
    assert len(load_published(f"cifar10-c:{tmp_path}?limit=2")["fog"][5]) == 2
    np.save(tmp_path / "labels.npy", y[:2])
    with pytest.raises(InvalidData, match=r"fog\.npy must hold five severities"):
        load_published(f"cifar10-c:{tmp_path}")


def test_mnist_c_holds_a_folder_for_each_kind(tmp_path):
    x = np.random.RandomState(0).randint(0, 256, (4, 28, 28, 1), dtype=np.uint8)
    (tmp_path / "zigzag").mkdir()
    np.save(tmp_path / "zigzag" / "test_images.npy", x)
    np.save(tmp_path / "zigzag" / "test_labels.npy", np.arange(4))
    inputs, targets = load_published(f"mnist-c:{tmp_path}?mean=0&std=1")["zigzag"][3].read(0, 4)
    torch.testing.assert_close(inputs, torch.from_numpy(x.transpose(0, 3, 1, 2)).float() / 255)
    assert targets.tolist() == [0, 1, 2, 3]


def test_folders_of_images_have_a_class_below_each_severity(tmp_path):
    image = pytest.importorskip("PIL.Image")
    for severity, grey in ((1, 51), (3, 102)):
        for name in ("cat", "dog"):
            place = tmp_path / "fog" / str(severity) / name
            place.mkdir(parents=True)
            image.new("RGB", (16, 16), (grey, grey, grey)).save(place / "0.png")
    found = load_published(f"imagenet-c:{tmp_path}?size=8")
    assert sorted(found["fog"]) == [1, 3]
    inputs, targets = found["fog"][3].read(0, 2)
    assert inputs.shape == (2, 3, 8, 8)
    assert inputs.unique().tolist() == pytest.approx([0.4])
    assert targets.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("cifar100-c:x", InvalidInput, "published data must be one of cifar10-c:DIR, mnist-c:DIR, imagenet-c:DIR"),
        ("cifar10-c:nowhere", InvalidInput, "no folder at nowhere"),
        ("mnist-c:{}", InvalidData, "holds no corrupted set in the layout of mnist-c"),
        ("cifar10-c:{}", InvalidData, r"cannot read .*labels\.npy: it is missing"),
        ("mnist-c:{}?rotate=1", InvalidInput, "unknown option 'rotate'"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path, spec, error, message):
    with pytest.raises(error, match=message):
        load_published(spec.format(tmp_path))
