"""Shifts: the same for the same seed, of the same shape, stronger with their severity."""

from __future__ import annotations

import math

import pytest
import torch

from bitwright.behavior import SHIFTS, Shift
from bitwright.behavior.shift import SEVERITIES, Scale, Under, kind_of
from bitwright.errors import InvalidData, InvalidInput

IMAGES = [name for name, shift in SHIFTS.items() if shift.kind == "images"]
WORDS = [name for name, shift in SHIFTS.items() if shift.kind == "words"]
OTHER_WAY = {"saturate": (1, 2), "canny-edges": (2, 3, 4, 5)}
"""Severities that go the other way than the rest, or as far."""


def pictures(count=6, channels=3, size=32):
    """Smooth pictures with a bright shape on them."""
    generator = torch.Generator().manual_seed(4)
    small = torch.rand(count, channels, 5, 5, generator=generator)
    images = torch.nn.functional.interpolate(small, (size, size), mode="bicubic", align_corners=True)
    images[:, :, size // 4 : size // 2, size // 4 : size // 2] += 0.3
    return images.clamp(0, 1)


MNIST_C = {"shot-noise", "impulse-noise", "glass-blur", "motion-blur", "brightness", "fog", "spatter"} | {
    *("shear", "scale", "rotate", "translate", "stripe", "dotted-line", "zigzag", "canny-edges")
}
DIGITS = [name for name in IMAGES if SHIFTS[name].channels == (1,)]


def test_all_kinds_of_the_published_sets_are_there():
    assert len(IMAGES) - len(DIGITS) == 19  # CIFAR-10-C
    assert set(DIGITS) < MNIST_C < set(IMAGES)
    assert len(WORDS) == 3
    assert sum(Scale.of([(pictures(channels=3), None)]).suits(shift) for shift in SHIFTS.values()) == 19
    assert sum(Scale.of([(pictures(channels=1), None)]).suits(shift) for shift in SHIFTS.values()) == 27


def dot(row, column, size=29):
    image = torch.zeros(1, 1, size, size)
    image[0, 0, row, column] = 1
    return image


def middle(image):
    """Row and column of the centre of mass."""
    rows, columns = torch.meshgrid(*(torch.arange(float(size)) for size in image.shape[2:]), indexing="ij")
    return [float((image[0, 0] * axis).sum() / image.sum()) for axis in (rows, columns)]


def test_digits_are_moved_by_what_is_said():
    for severity in SEVERITIES:
        for seed in range(3):
            row, column = middle(SHIFTS["rotate"](dot(14, 20), severity, seed))
            assert math.hypot(row - 14, column - 14) == pytest.approx(6, abs=0.2)
            assert abs(math.degrees(math.atan2(row - 14, column - 14))) == pytest.approx(10 * severity, abs=1.5)
            row, column = middle(SHIFTS["translate"](dot(14, 14), severity, seed))
            assert math.hypot(row - 14, column - 14) == pytest.approx(0.06 * severity * 29, abs=0.05)
            row, column = middle(SHIFTS["shear"](dot(18, 14), severity, seed))
            assert (row, abs(column - 14)) == pytest.approx((18, 0.2 * severity * 4), abs=0.1)
    row, column = middle(SHIFTS["scale"](dot(14, 24), 4))
    assert (row, column) == pytest.approx((14, 14 + 10 * 0.5), abs=0.3)
    flipped = SHIFTS["stripe"](torch.zeros(1, 1, 28, 28), 3)
    assert float(flipped.sum()) == 28 * 2 * round(28 * 0.075)


def test_lines_go_from_edge_to_edge():
    for name in ("zigzag", "dotted-line"):
        drawn = SHIFTS[name](torch.zeros(20, 1, 28, 28), 5)
        columns = drawn.amax((1, 2)).mean(1)  # share of the columns that hold some of the line
        assert float(columns.mean()) > (0.8 if name == "zigzag" else 0.45)
        assert float(columns.mean()) < (1.01 if name == "zigzag" else 0.6)


def test_outlines_are_thin():
    pytest.importorskip("skimage")
    square = torch.zeros(1, 1, 28, 28)
    square[..., 8:20, 8:20] = 1
    found = SHIFTS["canny-edges"](square, 3)
    assert set(found.unique().tolist()) == {0.0, 1.0}
    assert float(found[..., 11:17, 11:17].sum()) == 0
    assert 30 < float(found.sum()) < 80


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("channels", [1, 3])
def test_images_stay_images_and_move_further_with_severity(name, channels):
    if name in ("jpeg", "canny-edges"):
        pytest.importorskip("PIL" if name == "jpeg" else "skimage")
    images, shift = pictures(channels=channels), SHIFTS[name]
    moved = []
    for severity in SEVERITIES:
        found = shift(images, severity, seed=1)
        assert found.shape == images.shape
        assert found.dtype == images.dtype
        assert bool(torch.isfinite(found).all())
        assert 0 <= float(found.min()) <= float(found.max()) <= 1
        assert torch.equal(found, shift(images, severity, seed=1))
        moved.append(float((found - images).square().mean().sqrt()))
    assert 0.003 < moved[-1] < 0.8
    skipped = OTHER_WAY.get(name, ())
    kept = [value for severity, value in zip(SEVERITIES, moved, strict=True) if severity not in skipped]
    assert kept[-1] > kept[0] or len(kept) == 1


@pytest.mark.parametrize(
    "name", [name for name in IMAGES if name not in ("contrast", "brightness", "saturate", "jpeg")]
)
def test_each_seed_draws_anew_where_something_is_drawn(name):
    images, shift = pictures(), SHIFTS[name]
    same = torch.equal(shift(images, 3, seed=1), shift(images, 3, seed=2))
    assert same == (
        name in ("gaussian-blur", "defocus-blur", "zoom-blur", "pixelate", "scale", "stripe", "canny-edges")
    )


@pytest.mark.parametrize(("name", "strength"), [("gaussian-noise", 0.10), ("speckle-noise", 0.20 * 0.5)])
def test_noise_has_the_published_strength(name, strength):
    grey = torch.full((8, 3, 64, 64), 0.5)
    assert float((SHIFTS[name](grey, 5) - grey).std()) == pytest.approx(strength, rel=0.02)


def test_shot_noise_is_that_of_photons():
    grey = torch.full((8, 3, 64, 64), 0.5)
    assert float((SHIFTS["shot-noise"](grey, 5) - grey).std()) == pytest.approx(math.sqrt(0.5 / 50), rel=0.02)


def test_impulses_are_black_and_white():
    grey = torch.full((8, 3, 64, 64), 0.5)
    found = SHIFTS["impulse-noise"](grey, 5)
    for value in (0.0, 1.0):
        assert float((found == value).float().mean()) == pytest.approx(0.035, rel=0.1)
    assert float((found == 0.5).float().mean()) == pytest.approx(0.93, rel=0.01)


@pytest.mark.parametrize("name", ["gaussian-blur", "defocus-blur", "motion-blur", "zoom-blur", "glass-blur", "elastic"])
def test_blurs_leave_an_even_picture_alone(name):
    even = torch.full((2, 3, 32, 32), 0.4)
    torch.testing.assert_close(SHIFTS[name](even, 5), even, rtol=0, atol=1e-5)


def test_contrast_is_taken_about_the_mean_of_each_channel():
    images = pictures()
    mean = images.mean((2, 3), keepdim=True)
    torch.testing.assert_close(SHIFTS["contrast"](images, 5), 0.15 * images + 0.85 * mean)


@pytest.mark.parametrize("name", WORDS)
def test_words_are_changed_in_the_share_that_is_said(name):
    words = torch.randint(1, 500, (512, 50), generator=torch.Generator().manual_seed(0))
    words[:, 40:] = 0
    for severity, share in zip(SEVERITIES, (0.03, 0.06, 0.10, 0.15, 0.20), strict=True):
        found = SHIFTS[name](words, severity, seed=3, largest=500)
        assert found.shape == words.shape
        assert found.dtype == words.dtype
        if name == "unknown-words":
            assert torch.equal(found[:, 40:], words[:, 40:])
            assert float((found != words)[:, :40].float().mean()) == pytest.approx(share, rel=0.1)
            assert int(found[:, :40].min()) > 0
            assert int(found.max()) <= 500
        elif name == "dropped-words":
            gone = (words != 0).sum() - (found != 0).sum()
            assert float(gone / (words != 0).sum()) == pytest.approx(share, rel=0.1)
            for before, after in zip(words.tolist(), found.tolist(), strict=True):
                rest = iter(before)
                assert all(word in rest for word in after if word)  # in the order in which they were
        else:
            assert torch.equal(found.sort(1).values, words.sort(1).values)
            assert bool((found != words).any())


def test_words_that_are_padded_in_front_stay_so_when_some_are_dropped():
    words = torch.randint(1, 500, (64, 30), generator=torch.Generator().manual_seed(0))
    words[:32, :10] = 0
    found = SHIFTS["dropped-words"](words, 5, seed=3, largest=500)
    assert bool((found[:32, -1] != 0).all())
    assert bool((found[32:, 0] != 0).all())
    assert int((found == 0).sum()) > 320
    for before, after in zip(words.tolist(), found.tolist(), strict=True):
        rest = iter(before)
        assert all(word in rest for word in after if word)


def test_data_under_a_shift_is_the_same_each_time_and_in_its_own_scale():
    images = pictures(12)
    mean, std = torch.tensor([0.5, 0.4, 0.3])[:, None, None], torch.tensor([0.2, 0.3, 0.25])[:, None, None]
    images[0, :, 0, 0], images[1, :, 0, 0] = 0.0, 1.0  # black and white occur
    batches = [((images[i : i + 4] - mean) / std, torch.arange(4)) for i in range(0, 12, 4)]
    scale = Scale.of(batches)
    under = Under(batches, SHIFTS["fog"], 3, scale, seed=5)
    first, second = list(under), list(under)
    for place, ((one,), targets) in enumerate(first):
        assert torch.equal(one, second[place][0][0])
        assert torch.equal(targets, torch.arange(4))
        pixels = SHIFTS["fog"](images[4 * place : 4 * place + 4], 3, seed=5 * 1_000_003 + place)
        torch.testing.assert_close(one * std + mean, pixels, rtol=0, atol=1e-5)
    plain = list(Under(batches, None, 0, scale))
    assert all(torch.equal(one[0], batch[0]) for (one, _), batch in zip(plain, batches, strict=True))


def test_what_does_not_fit_is_refused():
    with pytest.raises(InvalidInput, match="severity must be one of 1, 2, 3, 4, 5, got 6"):
        SHIFTS["fog"](pictures(), 6)
    with pytest.raises(InvalidData, match="shift 'fog' works on images, got inputs of shape"):
        SHIFTS["fog"](torch.zeros(2, 5), 1)
    with pytest.raises(InvalidInput, match="did you mean 'fog'"):
        SHIFTS["fogg"]
    assert kind_of(torch.zeros(2, 7, 4, 4)) is None
    assert kind_of(torch.zeros(2, 7, dtype=torch.bool)) is None


def test_a_shift_of_ones_own(request):
    mine = Shift(name="upside-down", does="x.", function=lambda inputs, severity, generator: inputs.flip(2))
    SHIFTS.register(mine)
    request.addfinalizer(lambda: SHIFTS.remove("upside-down"))
    images = pictures()
    assert torch.equal(SHIFTS["upside-down"](images, 1), images.flip(2))
