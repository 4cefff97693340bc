from __future__ import annotations

import numpy as np
import pytest
import torch

from bitwright.data import DataSets
from bitwright.data.adopt import as_dataset
from bitwright.errors import InvalidData
from bitwright.session.samples import draw, pick
from bitwright.settings import Settings


def numbered(size: int):
    """A data set whose sample i is the number i."""
    x = torch.arange(size, dtype=torch.float32)[:, None]
    return as_dataset((x, torch.arange(size) % 3), "numbers")


def drawn_from(size: int, settings: Settings):
    return draw(DataSets(numbered(size), numbered(5)), settings)


def values(batches) -> list[int]:
    return [int(v) for inputs, _ in batches for v in inputs[0][:, 0]]


def test_held_out_samples_are_no_calibration_samples() -> None:
    drawn = drawn_from(100, Settings(calibration_samples=30, score_samples=40, holdout_samples=25, batch_size=7))
    assert (drawn.calibration.samples, drawn.scores.samples, drawn.holdout.samples) == (30, 40, 25)
    assert [len(inputs[0]) for inputs, _ in drawn.calibration] == [7, 7, 7, 7, 2]
    assert values(drawn.scores)[:30] == values(drawn.calibration)
    assert not set(values(drawn.scores)) & set(values(drawn.holdout))
    assert len({*values(drawn.scores), *values(drawn.holdout)}) == 65
    assert drawn.notes == ()


def test_targets_stay_with_their_samples() -> None:
    drawn = drawn_from(50, Settings(calibration_samples=20, score_samples=20, holdout_samples=20))
    for (inputs,), targets in (*drawn.calibration, *drawn.holdout):
        assert torch.equal(inputs[:, 0].long() % 3, targets)


def test_the_seed_decides_the_draw() -> None:
    def first(seed: int) -> list[int]:
        return values(drawn_from(200, Settings(calibration_samples=20, score_samples=5, seed=seed)).calibration)

    assert first(1) == first(1)
    assert first(1) != first(2)
    assert first(1) != sorted(first(1))


def test_other_samples_in_any_part_have_another_identity() -> None:
    """More samples to score push the held-out ones back, so what was measured on these is of other samples."""
    first, other = (
        drawn_from(100, Settings(calibration_samples=20, score_samples=scored, holdout_samples=20))
        for scored in (20, 40)
    )
    assert values(first.holdout) != values(other.holdout)
    assert first.identity != other.identity


def test_too_few_samples_are_shared_out_and_said_so() -> None:
    drawn = drawn_from(60, Settings())
    assert (drawn.calibration.samples, drawn.holdout.samples) == (40, 20)
    assert "numbers has 60 samples: 40 calibrate and score, 20 rank the candidates" in drawn.notes[0]
    assert "asked for: 512 and 512" in drawn.notes[0]


def test_next_to_nothing_is_refused() -> None:
    drawn = drawn_from(8, Settings())
    assert (drawn.calibration.samples, drawn.holdout.samples) == (4, 4)
    with pytest.raises(InvalidData, match="^numbers has 7 samples; a run needs at least 8"):
        drawn_from(7, Settings())


def test_a_stream_gives_the_same_samples_as_an_array() -> None:
    size = 700
    x, y = torch.arange(size, dtype=torch.float32)[:, None], torch.arange(size) % 3
    stream = as_dataset([(x[i : i + 50], y[i : i + 50]) for i in range(0, size, 50)], "stream")
    order = np.random.RandomState(3).permutation(size)[:300]
    one, other = pick(stream, order), pick(numbered(size), order)
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])
    assert one[0][:, 0].long().tolist() == order.tolist()
