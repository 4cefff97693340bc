"""Batches of epochs: every sample once, another order each time, the same again when asked again."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from bitwright.errors import InvalidData
from bitwright.numerics.randomness import seeded
from bitwright.train.feed import Feed, mirrored_and_shifted


def batches(count=10, size=4):
    x = torch.arange(count, dtype=torch.float32)[:, None]
    return [(x[i : i + size], x[i : i + size, 0].long()) for i in range(0, count, size)]


def order(feed, number):
    return torch.cat([inputs[0][:, 0] for inputs, _ in feed.epoch(number)]).tolist()


def test_every_sample_comes_once_with_its_target_and_in_another_order_each_epoch():
    feed = Feed(batches())
    assert (feed.samples, feed.batches) == (10, 3)
    for number in range(3):
        for inputs, targets in feed.epoch(number):
            assert torch.equal(inputs[0][:, 0].long(), targets)
        assert sorted(order(feed, number)) == list(range(10))
    assert order(feed, 0) != order(feed, 1) != order(feed, 2)


def test_an_epoch_is_the_same_whenever_it_is_asked_for():
    feed = Feed(batches(), seed=3)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    first = order(feed, 5)
    random.seed(2), np.random.seed(2), torch.manual_seed(2)
    assert order(feed, 5) == first == order(Feed(batches(), seed=3), 5)
    assert order(Feed(batches(), seed=4), 5) != first


def test_random_numbers_go_on_afterwards_as_if_nothing_had_been():
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(1).item()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    with seeded(7):
        random.random(), np.random.rand(), torch.rand(3)
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected


def test_a_loader_keeps_its_own_order():
    class Loader:
        def __iter__(self):
            yield from batches()

    assert order(Feed(Loader()), 0) == list(range(10))
    assert order(Feed(Loader(), shuffle=True), 0) != list(range(10))


def test_batches_that_cannot_be_mixed_come_whole():
    uneven = [(torch.zeros(2, 3), None), (torch.zeros(2, 5), None)]
    feed = Feed(uneven)
    assert [tuple(inputs[0].shape) for inputs, _ in feed.epoch(0)] == [(2, 3), (2, 5)]
    listed = [(torch.zeros(2, 3), [{"boxes": 1}, {"boxes": 2}])]
    assert [targets for _, targets in Feed(listed).epoch(0)] == [[{"boxes": 1}, {"boxes": 2}]]


def test_no_batch_of_a_single_sample_is_left_over():
    assert [len(inputs[0]) for inputs, _ in Feed(batches(9)).epoch(0)] == [4, 4]


def test_images_are_mirrored_and_moved_and_nothing_else():
    images = torch.arange(1, 17, dtype=torch.float32).reshape(1, 1, 4, 4).repeat(200, 1, 1, 1)
    with seeded(0):
        (found,) = mirrored_and_shifted((images,), pixels=1)
    rows = {tuple(image.flatten().tolist()) for image in found}
    padded = torch.nn.functional.pad(images[:1], (1,) * 4)[0, 0]
    possible = set()
    for down in range(3):
        for right in range(3):
            for turned in (padded, padded.flip(1)):
                possible.add(tuple(turned[down : down + 4, right : right + 4].flatten().tolist()))
    assert rows == possible
    with pytest.raises(InvalidData, match="got shape"):
        mirrored_and_shifted((torch.zeros(2, 3),))
