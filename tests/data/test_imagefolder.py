"""Folders of image files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bitwright.data import load_data
from bitwright.errors import InvalidData

Image = pytest.importorskip("PIL.Image")


def write(file: Path, colour: tuple[int, int, int], size: tuple[int, int] = (12, 8)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(file)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index in range(6):
        write(tmp_path / "train" / "cat" / f"{index}.png", (index, 0, 0))
        write(tmp_path / "train" / "dog" / f"{index}.jpg", (0, 255, 0))
    write(tmp_path / "train" / "zebra" / "a.JPEG", (0, 0, 255))
    write(tmp_path / "val" / "dog" / "1.png", (0, 255, 0))
    write(tmp_path / "val" / "zebra" / "1.png", (0, 0, 255))
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "train" / ".hidden").mkdir()
    return tmp_path


def test_classes_order_and_targets(folder):
    data = load_data(f"imagefolder:{folder}?size=8&shuffle=none")
    assert data.calibration.class_names == ("cat", "dog", "zebra")
    assert data.calibration.classes == data.evaluation.classes == 3
    x, y = data.calibration.read(0, 13)
    assert y.tolist() == [0] * 6 + [1] * 6 + [2]
    assert (x.shape, x.dtype) == ((13, 3, 8, 8), torch.float32)
    torch.testing.assert_close(x[:6, 0, 0, 0], torch.arange(6.0) / 255)
    assert data.evaluation.read(0, 2)[1].tolist() == [1, 2]  # numbered as in train


def test_the_default_order_mixes_the_classes(folder):
    data = load_data(f"imagefolder:{folder}?size=8&limit=6").calibration
    targets = data.read(0, 6)[1]
    assert len(data) == 6
    assert len(set(targets.tolist())) > 1
    again = load_data(f"imagefolder:{folder}?size=8&limit=6").calibration
    assert torch.equal(targets, again.read(0, 6)[1])


def test_test_is_preferred_to_val(folder):
    write(folder / "test" / "cat" / "1.png", (9, 9, 9))
    assert load_data(f"imagefolder:{folder}?size=8").evaluation.read(0, 1)[1].tolist() == [0]
    assert len(load_data(f"imagefolder:{folder}?size=8").evaluation) == 1


def test_resize_keeps_the_aspect_and_the_crop_is_central(tmp_path):
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, 20:40] = 255  # the middle third is white
    for part in ("train", "test"):
        (tmp_path / part / "a").mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / part / "a" / "wide.png")
        Image.fromarray(pixels.transpose(1, 0, 2)).save(tmp_path / part / "a" / "tall.png")
    x, _ = load_data(f"imagefolder:{tmp_path}?size=10&resize=10").calibration.read(0, 2)
    assert x.shape == (2, 3, 10, 10)
    assert x[:, :, 2:8, 2:8].min() == 1.0  # white, but for the resized border
    x, _ = load_data(f"imagefolder:{tmp_path}?size=30&resize=30&shuffle=none").calibration.read(1, 2)
    wide, _ = load_data(f"imagefolder:{tmp_path}?size=20&resize=20&shuffle=none").calibration.read(1, 2)
    assert wide.min() == 1.0  # not resized at all: exactly the white square
    assert x.shape[-1] == 30


def test_default_size_is_224_of_256(folder):
    data = load_data(f"imagefolder:{folder}").calibration
    assert (data.size, data.resize) == (224, 256)
    assert data.read(0, 2)[0].shape == (2, 3, 224, 224)


def test_normalisation(folder):
    data = load_data(f"imagefolder:{folder}?size=8&mean=0.5,0.25,0&std=0.5,1,2").evaluation
    x, y = data.read(0, 2)
    blue = x[y == 2][0, :, 0, 0]
    torch.testing.assert_close(blue, torch.tensor([-1.0, -0.25, 0.5]))


def test_grey_and_transparent_images_become_rgb(tmp_path):
    for part in ("train", "test"):
        (tmp_path / part / "a").mkdir(parents=True)
        Image.new("L", (8, 8), 51).save(tmp_path / part / "a" / "grey.png")
        Image.new("RGBA", (8, 8), (51, 51, 51, 255)).save(tmp_path / part / "a" / "rgba.png")
    x, _ = load_data(f"imagefolder:{tmp_path}?size=8&resize=8").calibration.read(0, 2)
    torch.testing.assert_close(x, torch.full((2, 3, 8, 8), 0.2))


def test_fingerprint_follows_content_and_preparation(folder):
    def fingerprint(options: str) -> str:
        return load_data(f"imagefolder:{folder}?{options}").calibration.fingerprint()

    first = fingerprint("size=8")
    assert fingerprint("size=8") == first
    assert len({first, fingerprint("size=16"), fingerprint("size=8&limit=3"), fingerprint("size=8&mean=0.5")}) == 4
    write(folder / "train" / "cat" / "0.png", (77, 0, 0))
    assert fingerprint("size=8") != first


def test_every_byte_of_every_image_counts_for_the_fingerprint(tmp_path):
    for part in ("train", "val"):
        for number in range(70):
            write(tmp_path / part / "cat" / f"{number:03}.png", (number, 0, 0))

    def fingerprint() -> str:
        return load_data(f"imagefolder:{tmp_path}?size=8").calibration.fingerprint()

    first = fingerprint()
    for number in (3, 41, 69):
        file = tmp_path / "train" / "cat" / f"{number:03}.png"
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert fingerprint() != first
        file.write_bytes(content)
    assert fingerprint() == first


def test_a_damaged_image_is_named_when_it_is_read(folder):
    file = folder / "val" / "dog" / "1.png"
    file.write_bytes(file.read_bytes()[:40])
    data = load_data(f"imagefolder:{folder}?size=8")
    assert len(data.evaluation) == 2
    with pytest.raises(InvalidData, match=r"cannot read the image .*val/dog/1\.png: it is damaged or not an image"):
        list(data.evaluation.batches(2))


def test_missing_folders(tmp_path):
    with pytest.raises(InvalidData, match=r"must hold a folder 'train' and a folder 'test' or 'val'"):
        load_data(f"imagefolder:{tmp_path}")
    (tmp_path / "train").mkdir()
    (tmp_path / "test").mkdir()
    with pytest.raises(InvalidData, match=r"train must hold one folder of images for each class, and it has none"):
        load_data(f"imagefolder:{tmp_path}")
    (tmp_path / "train" / "a").mkdir()
    with pytest.raises(InvalidData, match=r"train holds no images \(\.png, \.jpg, \.jpeg\) in its class folders"):
        len(load_data(f"imagefolder:{tmp_path}").calibration)
    (tmp_path / "test" / "b").mkdir()
    with pytest.raises(InvalidData, match=r"test/b is a class that .*train does not have"):
        load_data(f"imagefolder:{tmp_path}")
