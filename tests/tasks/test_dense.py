"""Dense prediction: the mean intersection over union, by brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from bitwright.errors import InvalidData, InvalidInput
from bitwright.graph import calibrate, capture
from bitwright.tasks import Dense, evaluate
from bitwright.tasks.dense import overlap
from bitwright.tasks.infer import named_task
from bitwright.values import FLOAT, Policy


@pytest.fixture
def network():
    """A network with a class of 5 at each pixel, of which targets never hold the last, and its data."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 5, 1)).eval()
    inputs, targets = torch.randn(12, 3, 6, 5), torch.randint(0, 4, (12, 6, 5))
    data = [(inputs[:7], targets[:7]), (inputs[7:], targets[7:])]
    return calibrate(capture(model, inputs[:2]), data), data


def brute(graph, policy, data, ignored=None):
    """Mean over the classes that occur of shared over covered pixels, one pixel after the other."""
    shared, covered = np.zeros(5), np.zeros(5)
    with torch.no_grad(), graph.applied(policy):
        for inputs, targets in data:
            for found, wanted in zip(
                graph(inputs).argmax(1).flatten().tolist(), targets.flatten().tolist(), strict=True
            ):
                if wanted == ignored:
                    continue
                for label in {found, wanted}:
                    covered[label] += 1
                    shared[label] += found == wanted
    return (shared[covered > 0] / covered[covered > 0]).mean()


@pytest.mark.parametrize("ignored", [None, 2])
def test_mean_iou_is_that_of_all_pixels_together(network, ignored):
    graph, data = network
    policy = Policy.uniform(graph.sites, 2, 3)
    figure = evaluate(graph, policy, data, Dense(ignore=ignored)).figures["mean-iou"]
    ours, exact = brute(graph, policy, data, ignored), brute(graph, FLOAT, data, ignored)
    assert ours != exact
    assert figure.value.value == pytest.approx(ours)
    assert figure.reference.value == pytest.approx(exact)
    assert figure.change.value == pytest.approx(ours - exact)
    assert figure.change.method == "paired bootstrap"
    for interval in (figure.value, figure.reference, figure.change):
        assert interval.low < interval.value < interval.high


def test_the_interval_of_mean_iou_is_that_of_samples_drawn_again(network):
    graph, data = network
    policy = Policy.uniform(graph.sites, 2, 3)
    inputs, targets = (torch.cat(parts) for parts in zip(*data, strict=True))
    drawn = np.random.default_rng(1).integers(0, 12, (300, 12))
    values = [brute(graph, policy, [(inputs[index], targets[index])]) for index in drawn]
    found = evaluate(graph, policy, data, Dense(), resamples=5000).figures["mean-iou"].value
    assert (found.low, found.high) == pytest.approx(np.quantile(values, (0.025, 0.975)), abs=0.02)


def test_one_position_a_sample_is_dense_too():
    """Logits (N, K) are dense prediction at a single position: the same figures as for (N, K, 1)."""
    logits, targets = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0, 1, 2])
    flat, wide = (
        overlap(Dense().head(z, y)) for z, y in ((logits, targets), (logits.unsqueeze(-1), targets.unsqueeze(-1)))
    )
    assert torch.equal(flat, wide)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dense?ignore=x", "ignore must be a whole number, got 'x'"),
        ("dense?ignore=1.5", "ignore must be a whole number, got 1.5"),
        ("language?ignore=true", "ignore must be a whole number, got True"),
        ("embedding?neighbours=0", "neighbours must be a whole number, at least 1, got 0"),
        ("embedding?neighbours=x", "neighbours must be a whole number, at least 1, got 'x'"),
    ],
)
def test_options_that_are_no_whole_numbers_are_refused(name, message):
    with pytest.raises(InvalidInput, match=message):
        named_task(name)


def test_classes_may_be_the_last_axis():
    logits, targets = torch.randn(4, 5, 5), torch.randint(0, 5, (4, 5))
    plain, last = Dense(), Dense(last=True)
    torch.testing.assert_close(last.score(logits, targets), plain.score(logits.movedim(-1, 1), targets))
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    torch.testing.assert_close(last.score(logits, targets), expected.reshape(4, 5).mean(1))
    assert named_task("dense?last=true").last


def test_targets_that_mark_what_does_not_count_are_told_how_to_be_left_out():
    logits, targets = torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.long)
    targets[1, 0, 0] = 255
    with pytest.raises(InvalidData, match=r"got 255; where that marks .* take the task 'dense\?ignore=255'"):
        Dense().head(logits, targets)
    assert Dense(ignore=255).head(logits, targets) is not None
