from __future__ import annotations

import pytest
import torch

from bitwright.errors import InvalidData, InvalidInput
from bitwright.graph.batches import as_batches, check_target_shape, check_targets, iterate, split

X, Y = torch.randn(3, 2), torch.tensor([0, 1, 2])


def test_iterators_are_kept_and_other_iterables_are_passed_on():
    batches = [(X, Y)]
    assert as_batches(batches) is batches
    kept = as_batches(iter(batches))
    assert list(kept) == list(kept) == batches


@pytest.mark.parametrize(
    ("batch", "count"), [((X, Y), 1), ([X, Y], 1), (((X, X), Y), 2), (([X, X, X], None), 3), (X, 1), ((X, None), 1)]
)
def test_what_a_batch_can_be(batch, count):
    inputs, targets = split(batch)
    assert len(inputs) == count
    assert all(v is X for v in inputs)
    assert targets is None or targets is Y


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((X, Y, Y), "a batch must be .inputs, targets., got tuple of length 3"),
        ({"x": X}, "got dict of length 1"),
        (3, "got int of length unknown"),
        (([1.0, 2.0], Y), "inputs must be tensors, got float; convert the data first"),
        ((X[:0], Y[:0]), r"a batch holds no samples: its inputs have shape \(0, 2\)"),
        ((torch.tensor(1.0), None), r"its inputs have shape \(\)"),
        ((X, Y[:2]), "a batch has 3 inputs but 2 targets"),
        ((X * float("nan"), Y), "NaN or infinite"),
        ((X / 0, Y), "NaN or infinite"),
    ],
)
def test_what_it_cannot_be(batch, message):
    with pytest.raises(InvalidData, match=message):
        split(batch)


@pytest.mark.parametrize("batches", [X, 3, None])
def test_what_batches_cannot_be(batches):
    with pytest.raises(InvalidData, match=r"batches must be an iterable of \(inputs, targets\), got"):
        as_batches(batches)


def test_none_at_all_says_what_for():
    with pytest.raises(InvalidData, match="batches are empty: baking needs at least one batch"):
        list(iterate([], purpose="baking"))


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.tensor([0, 3]), r"between 0 and 2 \(the model has 3 outputs\), got 3"),
        (torch.tensor([-1, 2]), "got -1"),
        (torch.tensor([0.0]), "must be class indices .integers., got torch.float32"),
        (None, "targets are needed here"),
        ([0, 1], "targets are needed here"),
    ],
)
def test_targets(targets, message):
    with pytest.raises(InvalidData, match=message):
        check_targets(targets, 3)


def test_good_targets_pass():
    check_targets(torch.tensor([0, 1, 2]), 3)
    check_targets(torch.zeros(2, 4, 4, dtype=torch.uint8), 1)


def test_classes_along_the_last_axis_are_told():
    outputs, targets = torch.zeros(4, 7, 20), torch.zeros(4, 7, dtype=torch.long)
    with pytest.raises(InvalidInput, match=r"classes must be axis 1 .* got shape \(4, 7, 20\) .*movedim\(-1, 1\)"):
        check_target_shape(outputs, targets)
    check_target_shape(outputs.movedim(-1, 1), targets)
    check_target_shape(torch.zeros(4, 7, 7), targets)


def test_one_hot_targets_are_told():
    with pytest.raises(
        InvalidData, match=r"targets must have shape \(4,\) for outputs of shape \(4, 3\), got \(4, 3\)"
    ):
        check_target_shape(torch.zeros(4, 3), torch.zeros(4, 3, dtype=torch.long))
