"""Which samples a run works on: drawn once, calibration and held-out samples apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from bitwright.data.adopt import BatchStream
from bitwright.data.dataset import Batch, Dataset
from bitwright.data.inputs import join, samples_in, select
from bitwright.errors import InvalidData
from bitwright.settings import Settings

LEAST = 8
"""Fewest samples of calibration data: 4 to calibrate with, 4 to hold out."""
CHUNK = 256


@dataclass(frozen=True)
class Drawn:
    """Batches of the calibration data, held in memory.

    Attributes:
        calibration: set the ranges.
        scores: the first of these; the sensitivity scores are made of them.
        holdout: no sample of the above; candidates are measured and ranked on them.
        notes: what the user should know of the draw.
    """

    calibration: tuple[Batch, ...]
    scores: tuple[Batch, ...]
    holdout: tuple[Batch, ...]
    notes: tuple[str, ...] = ()


def count(batches: tuple[Batch, ...]) -> int:
    """Number of samples."""
    return sum(samples_in(inputs) for inputs, _ in batches)


def draw(dataset: Dataset, settings: Settings) -> Drawn:
    """Draw the samples that choices are made on.

    Where the data is too small for what was asked, a third of it is held out and the rest calibrates.

    Args:
        dataset: the calibration data.
        settings: how many samples, and the seed of the draw.

    Raises:
        InvalidData: fewer than 8 samples.
    """
    size = len(dataset)
    if size < LEAST:
        raise InvalidData(
            f"{dataset.name} has {size} samples; a run needs at least {LEAST}: some set the ranges, others rank the "
            "candidates; a few hundred are usual"
        )
    first, held = max(settings.calibration_samples, settings.score_samples), settings.holdout_samples
    notes: tuple[str, ...] = ()
    if first + held > size:
        held = min(held, max(LEAST // 2, size // 3))
        first = min(first, size - held)
        notes = (
            f"{dataset.name} has {size:,} samples: {first:,} calibrate and score, {held:,} rank the candidates "
            f"(asked for: {max(settings.calibration_samples, settings.score_samples):,} and "
            f"{settings.holdout_samples:,}).",
        )
    order = np.random.RandomState(settings.seed).permutation(size)[: first + held]
    inputs, targets = pick(dataset, order)
    calibrate, score = min(first, settings.calibration_samples), min(first, settings.score_samples)

    def batches(start: int, stop: int) -> tuple[Batch, ...]:
        edges = range(start, stop, settings.batch_size)
        return tuple(
            (select(inputs, chosen), targets[chosen])
            for chosen in (slice(i, min(i + settings.batch_size, stop)) for i in edges)
        )

    return Drawn(batches(0, calibrate), batches(0, score), batches(first, first + held), notes)


def pick(dataset: Dataset, positions: np.ndarray) -> Batch:
    """The samples at these positions, in their order."""
    order = np.argsort(positions, kind="stable")
    ascending = positions[order]
    if isinstance(dataset, BatchStream):  # a stream is read once from its beginning, whatever is asked of it
        parts, first = [], 0
        for inputs, targets in dataset.stream(CHUNK, int(ascending[-1]) + 1):
            size = samples_in(inputs)
            wanted = torch.from_numpy(ascending[(ascending >= first) & (ascending < first + size)] - first)
            parts.append((select(inputs, wanted), targets[wanted]))
            first += size
    else:
        parts = [dataset.read(int(i), int(i) + 1) for i in ascending]
    inputs, targets = join([part[0] for part in parts]), torch.cat([part[1] for part in parts])
    back = torch.from_numpy(np.argsort(order, kind="stable"))
    return select(inputs, back), targets[back]
