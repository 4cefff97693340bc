"""Digits on canvases: boxes, masks and classes belong to what is seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bitwright.data import digits_on_canvas
from bitwright.errors import InvalidInput


def digits(count=20, seed=0):
    """Solid rectangles with a dark border, class = place modulo 10."""
    random = np.random.RandomState(seed)
    images = np.zeros((count, 12, 12), dtype=np.uint8)
    for image in images:
        height, width = random.randint(4, 9, 2)
        image[2 : 2 + height, 1 : 1 + width] = 250
    return images, np.arange(count) % 10


def test_a_box_holds_exactly_the_pixels_of_its_class_and_they_are_lit():
    made = digits_on_canvas(*digits(), count=40, size=40, heights=(6, 14), noise=0.1)
    assert made.images.shape == (40, 1, 40, 40)
    for image, mask, boxes, classes in zip(made.images[:, 0], made.masks, made.boxes, made.classes, strict=True):
        expected = torch.zeros_like(mask)
        for (left, top, right, bottom), digit in zip(boxes.int().tolist(), classes.tolist(), strict=True):
            if digit >= 0:
                assert 6 <= max(right - left, bottom - top) <= 14
                assert not expected[top:bottom, left:right].any(), "boxes overlap"
                expected[top:bottom, left:right] = digit + 1
        torch.testing.assert_close(mask, expected)
        assert image[mask > 0].min() > 0.9
        assert image[mask == 0].mean() < 0.1


def test_numbers_of_digits_are_between_least_and_most_and_the_rest_is_marked():
    made = digits_on_canvas(*digits(), count=60, size=60, least=2, most=4, heights=(4, 6))
    counts = (made.classes >= 0).sum(1)
    assert set(counts.tolist()) == {2, 3, 4}
    assert torch.equal(made.boxes[made.classes < 0], torch.zeros(int((made.classes < 0).sum()), 4))


def test_a_full_canvas_keeps_at_least_one_digit():
    made = digits_on_canvas(*digits(), count=10, size=10, least=4, most=4, heights=(9, 10))
    assert (made.classes >= 0).any(1).all()


def test_the_same_seed_makes_the_same_canvases():
    first, again, other = (digits_on_canvas(*digits(), count=5, size=32, heights=(5, 9), seed=s) for s in (3, 3, 4))
    for name in ("images", "masks", "boxes", "classes"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert not torch.equal(first.images, other.images)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"least": 3, "most": 2}, "least and most must be in order and at least 1, got least=3, most=2"),
        ({"heights": (8, 40)}, r"at most size=32, got \(8, 40\)"),
    ],
)
def test_what_cannot_be_placed_is_refused(options, message):
    with pytest.raises(InvalidInput, match=message):
        digits_on_canvas(*digits(), count=1, size=32, **options)
