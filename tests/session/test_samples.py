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
    (one,), (other,) = pick(stream, order), pick(numbered(size), order)
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])
    assert one[0][:, 0].long().tolist() == order.tolist()


def test_samples_of_several_lengths_come_in_batches_of_one() -> None:
    lengths = [3 + i % 4 for i in range(24)]
    parts = [
        {"ids": torch.full((2, n), i), "mask": torch.ones(2, n, dtype=torch.bool), "labels": torch.full((2, n), i)}
        for i, n in enumerate(lengths)
    ]
    settings = Settings(calibration_samples=20, score_samples=12, holdout_samples=16, batch_size=4)
    samples = draw(DataSets(as_dataset(parts, "texts"), as_dataset(parts, "texts")), settings)
    assert "texts has samples of several lengths: each batch has one of them" in samples.notes[-1]
    seen: dict[str, list[int]] = {}
    for name in ("calibration", "scores", "holdout", "evaluation"):
        for inputs, targets in samples.part(name):
            ids, mask, labels = inputs
            assert inputs.names == ("ids", "mask", "labels")
            assert ids.shape == mask.shape == labels.shape == targets.shape
            assert len(ids) <= 4
            assert torch.equal(ids, targets)
            assert all(lengths[int(row[0])] == ids.shape[1] for row in ids)
            seen.setdefault(name, []).extend(ids[:, 0].tolist())
    assert {name: len(numbers) for name, numbers in seen.items()} == {
        "calibration": 20,
        "scores": 12,
        "holdout": 16,
        "evaluation": 48,
    }
    assert sorted(seen["evaluation"]) == sorted(2 * list(range(24)))
    assert sorted({tuple(example[0].shape[1:]) for example in samples.examples}) == [(3,), (4,), (5,), (6,)]


def test_samples_that_make_no_batch() -> None:
    class Ragged(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            return {"ids": torch.zeros(index + 1), "labels": torch.tensor(0)}

    ragged = as_dataset(Ragged(), "texts")
    with pytest.raises(InvalidData, match="samples 0 to 1 of texts make no batch: .*pad them in the collate_fn"):
        ragged.read(0, 2)
