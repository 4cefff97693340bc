"""The one-stage detector: shapes, and boxes made of its outputs."""

from __future__ import annotations

import math

import torch

from bitwright.zoo import decode, grid_detector


def outputs(cells, height=3, width=4):
    """Outputs with an object of probability and class at each (row, column, logit, class, box offsets)."""
    made = {
        "objectness": torch.full((1, 1, height, width), -20.0),
        "boxes": torch.zeros(1, 4, height, width),
        "classes": torch.zeros(1, 3, height, width),
    }
    for row, column, logit, label, box in cells:
        made["objectness"][0, 0, row, column] = logit
        made["classes"][0, label, row, column] = 30.0
        made["boxes"][0, :, row, column] = torch.tensor(box)
    return made


def test_outputs_have_a_value_for_each_cell_of_eight_pixels():
    found = grid_detector(num_classes=7, width=4)(torch.zeros(2, 1, 32, 48))
    shapes = {name: tuple(value.shape) for name, value in found.items()}
    assert shapes == {"objectness": (2, 1, 4, 6), "boxes": (2, 4, 4, 6), "classes": (2, 7, 4, 6)}


def test_a_box_is_where_its_cell_and_offsets_say():
    centre = (0.25, 0.75)  # part of the cell, column then row
    logits = [math.log(part / (1 - part)) for part in centre]
    found = decode(outputs([(1, 2, 1.0, 2, (*logits, math.log(2.0), math.log(0.5)))]))[0]
    column, row = (2 + 0.25) * 8, (1 + 0.75) * 8
    torch.testing.assert_close(found["boxes"], torch.tensor([[column - 8, row - 2, column + 8, row + 2]]))
    torch.testing.assert_close(found["scores"], torch.tensor([1 / (1 + math.exp(-1.0))]))
    assert found["labels"].tolist() == [2]


def test_of_boxes_that_overlap_much_only_the_best_stays():
    same = [(1, 1, 1.0, 0, (4.0, 0.0, 1.5, 1.5)), (1, 2, 2.0, 1, (-4.0, 0.0, 1.5, 1.5))]
    apart = (0, 0, 0.0, 2, (0.0, 0.0, 0.0, 0.0))
    found = decode(outputs([*same, apart]))[0]
    assert found["labels"].tolist() == [1, 2]
    assert found["scores"].diff().item() < 0
    assert len(decode(outputs([*same, apart]), overlap=0.99)[0]["labels"]) == 3
    assert decode(outputs([*same, apart]), most=1)[0]["labels"].tolist() == [1]


def test_weak_boxes_are_left_out():
    found = decode(outputs([(0, 0, -4.0, 0, (0.0,) * 4)]), threshold=0.05)[0]
    assert found["boxes"].shape == (0, 4)
