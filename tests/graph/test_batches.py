from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch

from bitwright.errors import InvalidData
from bitwright.graph.batches import Checked, as_batches, cut, iterate, limited, split

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
        ({"x": [1.0, 2.0]}, "inputs must be tensors, got a list for 'x'; leave it out"),
        ({"use_cache": False}, "must hold at least one tensor"),
        (3, "got int of length unknown"),
        ((X, [0, 1]), "a batch has 3 inputs but 2 targets"),
        (([1.0, 2.0], Y), "inputs must be tensors, got float; convert the data first"),
        ((X[:0], Y[:0]), r"a batch holds no samples: its inputs have shape \(0, 2\)"),
        ((torch.tensor(1.0), None), r"its inputs have shape \(\)"),
        ((X, Y[:2]), "a batch has 3 inputs but 2 targets"),
        ((X, {"text": ["one", "two"]}), "a batch has 3 inputs but 2 targets"),
        ((X, [{"boxes": X}] * 4), "a batch has 3 inputs but 4 targets"),
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


class Boxes(NamedTuple):
    corners: torch.Tensor
    label: list


@dataclass
class Caption:
    text: list
    score: torch.Tensor
    language: str


class TestCut:
    """Batches of 5 samples, of which 1 to 3 are taken."""

    x = torch.randn(5, 2)
    y = torch.arange(5)

    def taken(self, targets):
        (inputs,), found = cut(((self.x,), targets), 1, 4)
        assert torch.equal(inputs, self.x[1:4])
        return found

    def test_tensors_wherever_they_are(self):
        found = self.taken({"a": self.y, "b": (self.y * 2, [self.x, self.y]), "size": 224, "none": None})
        assert torch.equal(found["a"], self.y[1:4])
        assert torch.equal(found["b"][0], 2 * self.y[1:4])
        assert torch.equal(found["b"][1][0], self.x[1:4])
        assert torch.equal(found["b"][1][1], self.y[1:4])
        assert (found["size"], found["none"]) == (224, None)
        assert self.taken(None) is None
        assert isinstance(self.taken(self.y.numpy()), np.ndarray)

    def test_lists_with_an_entry_for_each_sample(self):
        assert self.taken(["a", "b", "c", "d", "e"]) == ["b", "c", "d"]
        boxes = [{"boxes": torch.randn(n, 4), "labels": torch.arange(n)} for n in (5, 5, 5, 5, 5)]
        assert self.taken(boxes) == boxes[1:4]
        assert self.taken(tuple(boxes)) == tuple(boxes[1:4])
        lengths = [torch.randn(n) for n in (1, 5, 2, 0, 7)]
        assert self.taken(lengths) == lengths[1:4]

    def test_records(self):
        boxes = self.taken(Boxes(self.x, [1, 2, 3, 4, 5]))
        assert isinstance(boxes, Boxes)
        assert torch.equal(boxes.corners, self.x[1:4])
        assert boxes.label == [2, 3, 4]
        caption = self.taken(Caption(list("abcde"), self.y, "en"))
        assert (caption.text, caption.score.tolist(), caption.language) == (["b", "c", "d"], [1, 2, 3], "en")

    def test_what_does_not_say_where_its_samples_are(self):
        with pytest.raises(InvalidData, match=r"Tensor of shape \(3, 2\) in a batch of 5 samples.*make its first axis"):
            self.taken({"a": torch.zeros(3, 2)})
        with pytest.raises(InvalidData, match="list of 5 entries in a batch of 5 samples.*a dictionary by output"):
            self.taken([self.y] * 5)
        with pytest.raises(InvalidData, match="targets hold a object in a batch of 5 samples"):
            self.taken(object())

    def test_the_first_samples_of_several_batches(self):
        batches = [((self.x,), {"y": self.y}), ((self.x + 1,), {"y": self.y + 5}), ((self.x,), {"y": self.y})]
        found = list(limited(batches, 7))
        assert [len(inputs[0]) for inputs, _ in found] == [5, 2]
        assert torch.cat([targets["y"] for _, targets in found]).tolist() == [0, 1, 2, 3, 4, 5, 6]
        assert list(limited(batches, None)) == batches
        assert len(list(limited(batches, 10))) == 2

    def test_targets_move_along_whatever_holds_them(self):
        graph = SimpleNamespace(device=torch.device("meta"), arranged=lambda inputs: inputs)
        (_, targets), *_ = iterate([(self.x, {"y": [self.y, "text"]})], graph)
        assert targets["y"][0].is_meta
        assert targets["y"][1] == "text"


def test_the_first_batch_is_read_once():
    read = []

    class Source:
        def __iter__(self):
            for i in range(3):
                read.append(i)
                yield torch.full((4, 1), float(i)), None

    batches = Checked(Source(), limit=10)
    assert float(batches.first[0][0][0]) == 0.0
    assert read == [0]
    for _ in range(2):
        assert [len(inputs[0]) for inputs, _ in batches] == [4, 4, 2]
    assert batches.samples == 10
    assert read == [0, 1, 2]


def test_targets_can_be_a_list_of_numbers():
    _, targets = split((X, [0, 1, 2]))
    assert targets.tolist() == [0, 1, 2]
    assert targets.dtype == torch.int64
