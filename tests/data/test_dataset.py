"""Batches, conversion and checks that all data sets share."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bitwright.data import ArrayDataset, Preparation
from bitwright.data.dataset import digest, to_inputs, to_targets
from bitwright.errors import InvalidData, InvalidInput


def numbered(size: int = 10, preparation: Preparation | None = None, classes: int | None = 10) -> ArrayDataset:
    x = np.arange(size, dtype=np.float32).reshape(-1, 1)
    return ArrayDataset("numbers", lambda: (x, np.arange(size) % 10), preparation, classes)


def test_batches_can_be_read_again_and_have_a_length():
    batches = numbered(10).batches(4)
    assert len(batches) == 3
    for _ in range(2):
        read = list(batches)
        assert [len(x) for x, _ in read] == [4, 4, 2]
        assert torch.cat([x for x, _ in read]).flatten().tolist() == list(range(10))
        assert torch.cat([y for _, y in read]).tolist() == list(range(10))


@pytest.mark.parametrize(("limit", "sizes"), [(1, [1]), (4, [4]), (7, [4, 3]), (100, [4, 4, 2]), (None, [4, 4, 2])])
def test_limit_gives_the_first_samples(limit, sizes):
    batches = numbered(10).batches(4, limit=limit)
    assert [len(x) for x, _ in batches] == sizes
    assert len(batches) == len(sizes)
    assert batches.samples == sum(sizes)


@pytest.mark.parametrize(("arguments", "message"), [((0,), "batch_size"), ((4, 0), "limit"), ((4, -2), "limit")])
def test_sizes_below_one(arguments, message):
    with pytest.raises(InvalidInput, match=rf"{message} must be at least 1, got {arguments[-1]} for numbers"):
        numbered().batches(*arguments)


def test_indexing():
    data = numbered(10)
    x, y = data[-1]
    assert (x.tolist(), y.item()) == ([9.0], 9)
    with pytest.raises(IndexError, match="index 10 is out of range: the number of samples of numbers is 10"):
        data[10]
    assert len(list(iter(data))) == 10  # the old protocol of __getitem__ until IndexError


def test_a_torch_loader_can_read_it():
    loader = torch.utils.data.DataLoader(numbered(10), batch_size=5)
    assert [x.shape for x, _ in loader] == [(5, 1), (5, 1)]


def test_loading_waits_and_happens_once():
    calls = []

    def load():
        calls.append(1)
        return np.zeros((3, 2), np.float32), np.zeros(3, np.int64)

    data = ArrayDataset("lazy", load)
    data.batches(2)
    assert not calls
    list(data.batches(2))
    list(data.batches(2))
    assert len(calls) == 1


def test_shuffle_is_fixed_and_comes_before_limit():
    everything = [int(x) for x, _ in numbered(50, Preparation(shuffle=3))]
    assert everything != sorted(everything)
    assert sorted(everything) == list(range(50))
    assert [int(x) for x, _ in numbered(50, Preparation(shuffle=3, limit=7))] == everything[:7]
    assert [int(x) for x, _ in numbered(50, Preparation(shuffle=4))] != everything
    # numpy's legacy stream: the same on every machine and version
    assert [int(x) for x, _ in numbered(10, Preparation(shuffle=0))] == [2, 8, 4, 9, 1, 6, 7, 3, 0, 5]


def test_normalisation_per_channel_and_for_all():
    x = np.full((1, 2, 2, 2), 51, np.uint8)
    load = lambda: (x, np.zeros(1, np.int64))  # noqa: E731
    pixels, _ = ArrayDataset("p", load, Preparation(mean=(0.1, 0.2), std=(0.5, 0.25))).read(0, 1)
    torch.testing.assert_close(pixels[0, :, 0, 0], torch.tensor([0.2, 0.0]))
    pixels, _ = ArrayDataset("p", load, Preparation(mean=(0.1,))).read(0, 1)
    torch.testing.assert_close(pixels, torch.full((1, 2, 2, 2), 0.1))
    with pytest.raises(InvalidData, match="std must have 1 or 2 values for p, got 3"):
        ArrayDataset("p", load, Preparation(std=(1, 1, 1))).read(0, 1)


def test_fingerprint_follows_the_content():
    first = numbered(10).fingerprint()
    assert len(first) == 64
    assert int(first, 16) >= 0
    assert numbered(10).fingerprint() == first
    different = [
        numbered(11),
        numbered(10, Preparation(limit=9)),
        numbered(10, Preparation(shuffle=1)),
        numbered(10, Preparation(mean=(1.0,))),
    ]
    assert len({first, *(data.fingerprint() for data in different)}) == 5


def test_digest_tells_dtype_shape_and_order_apart():
    zeros = np.zeros(4, np.float32)
    contents = [(zeros,), (zeros.reshape(2, 2),), (zeros.view(np.int32),), (zeros, zeros), ("a", "b"), ("ab", "")]
    assert len({digest(*content) for content in contents}) == len(contents)
    assert digest(torch.zeros(4)) == digest(zeros)
    assert digest(torch.arange(6).reshape(2, 3).T) == digest(np.ascontiguousarray(np.arange(6).reshape(2, 3).T))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 255, 51]], np.uint8), torch.tensor([[0.0, 1.0, 0.2]])),
        (torch.tensor([[0, 255]], dtype=torch.uint8), torch.tensor([[0.0, 1.0]])),
        (np.array([[1.5]], np.float64), torch.tensor([[1.5]])),
        (torch.tensor([[2.0]], dtype=torch.float16), torch.tensor([[2.0]])),
        (np.array([[300]], np.uint16), torch.tensor([[300]])),
        (np.array([[7]], np.int32), torch.tensor([[7]])),
        (np.array([[1.0]], ">f4"), torch.tensor([[1.0]])),
        ([[1.0, 2.0]], torch.tensor([[1.0, 2.0]])),
    ],
)
def test_conversion_of_inputs(values, expected):
    result = to_inputs(values, "d")
    torch.testing.assert_close(result, expected)


def test_conversion_leaves_the_source_alone():
    pixels = torch.tensor([[255.0]])
    assert to_inputs(pixels, "d") is not None
    pixels8 = torch.tensor([[255]], dtype=torch.uint8)
    to_inputs(pixels8, "d")
    assert pixels8.item() == 255


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_inputs_that_are_not_finite(bad):
    x = np.zeros((6, 2, 2), np.float32)
    x[4, 1, 0] = bad
    data = ArrayDataset("broken", lambda: (x, np.zeros(6, np.int64)))
    with pytest.raises(InvalidData, match="the inputs of broken hold NaN or infinity, first in sample 4"):
        list(data.batches(3))


def test_large_finite_values_are_no_infinity():
    x = torch.full((2, 2), 3e38)
    assert torch.equal(to_inputs(x, "d"), x)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([0.0, 1.0], r"the targets of d must be integers \(class numbers from 0\), got float64"),
        ([True, False], r"must be integers .* got bool"),
        ([0, -1], r"the targets of d must be between 0 and 3, got -1 in sample 1"),
        ([0, 1, 2, 4], r"the targets of d must be between 0 and 3, got 4 in sample 3"),
        ([[0, 1], [1, 9]], r"must be between 0 and 3, got 9 in sample 1"),
        (["cat"], r"the targets of d must be a tensor of numbers, got <U3"),
        ([[0], [1, 2]], r"the targets of d must be one array of numbers, got ragged lists"),
        (3, r"the targets of d must have the samples along the first axis, got a single number"),
        ({}, r"the targets of d must be a tensor of numbers, got dict"),
    ],
)
def test_bad_targets(targets, message):
    with pytest.raises(InvalidData, match=message):
        to_targets(targets, "d", classes=4)


def test_unknown_classes_still_refuse_negative_targets():
    assert to_targets([0, 900], "d").tolist() == [0, 900]
    with pytest.raises(InvalidData, match="must be at least 0, got -5 in sample 12"):
        to_targets([0, 1, -5], "d", first=10)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((3, 2)), np.zeros(2, int), "d has 3 inputs and 2 targets: there must be one target for each input"),
        (np.zeros((0, 2)), np.zeros(0, int), "d has no samples"),
        (np.zeros(3), np.zeros(3, int), r"the inputs of d must be \(samples, ...\), got shape \(3,\)"),
        (torch.zeros(1, 2, dtype=torch.complex64), [0], "the inputs of d must be real numbers, got torch.complex64"),
    ],
)
def test_bad_arrays(x, y, message):
    with pytest.raises(InvalidData, match=message):
        list(ArrayDataset("d", lambda: (x, y)).batches(2))


def test_arrays_with_known_classes_refuse_floats_and_others_take_them():
    x, y = torch.zeros(4, 2), torch.tensor([0.5, 1.5, 2.5, -1.0])
    assert torch.equal(ArrayDataset("d", lambda: (x, y)).read(0, 4)[1], y)
    with pytest.raises(InvalidData, match="must be integers"):
        ArrayDataset("d", lambda: (x, y), classes=3).read(0, 4)


def test_positions_that_do_not_count_are_let_through_and_samples_are_not() -> None:
    assert to_targets([[1, -100]], "masks").tolist() == [[1, -100]]
    with pytest.raises(InvalidData, match="at least 0, got -100 in sample 1"):
        to_targets([1, -100], "labels")
    with pytest.raises(InvalidData, match="got -1 in sample 0"):
        to_targets([[1, -1]], "masks")
