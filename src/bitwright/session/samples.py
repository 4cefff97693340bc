"""Which samples a job works on: drawn once, those that calibrate and those that are held out apart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from bitwright.data.adopt import BatchStream
from bitwright.data.dataset import Batch, Dataset, DataSets, digest, joined, lengths
from bitwright.data.inputs import as_tuple, samples_in, select
from bitwright.errors import InvalidData
from bitwright.graph.batches import Checked
from bitwright.graph.calling import each
from bitwright.settings import Settings

LEAST = 8
"""Fewest samples of calibration data: 4 to calibrate with, 4 to hold out."""
CHUNK = 256
PART = 16
"""Batches of training data that are read at once."""


@dataclass(frozen=True)
class Samples:
    """The data of a job in parts, each decoded and checked once.

    Attributes:
        calibration: set the ranges.
        scores: the first of these; the sensitivity scores are made of them.
        holdout: no sample of the above; candidates are measured and ranked on them.
        training: all calibration data but those held out, in an order drawn at random; read when they are asked for.
        evaluation: figures are measured on them, nothing is chosen by them.
        identity: names the draw by the content of every sample in it.
        evaluation_identity: likewise the evaluation data.
        notes: what the user should know of the draw.
    """

    calibration: Checked
    scores: Checked
    holdout: Checked
    evaluation: Checked
    training: Checked = field(default_factory=lambda: Checked((), purpose="training"))
    identity: Mapping[str, Any] = field(default_factory=dict)
    evaluation_identity: str = ""
    notes: tuple[str, ...] = ()

    @property
    def examples(self) -> list[tuple[Any, ...]]:
        """The inputs of two samples, and of others of each other length."""
        found: dict[tuple[Any, ...], tuple[Any, ...]] = {}
        for part in (self.calibration, self.holdout):
            for inputs, _ in part:
                found.setdefault(tuple(v.shape[1:] for v in inputs), each(inputs, lambda value: value[:2]))
        return list(found.values())

    @classmethod
    def of(cls, calibration: Iterable[Any], evaluation: Iterable[Any], limit: int | None = None) -> Samples:
        """The batches that a user gives: everything is chosen on the first ``limit`` samples of the one part."""
        drawn = Checked(calibration, limit, purpose="calibration")
        return cls(drawn, drawn, drawn, Checked(evaluation, purpose="evaluation"), drawn)

    def part(self, name: str) -> Checked:
        """``"calibration"``, ``"scores"``, ``"holdout"``, ``"evaluation"`` or ``"training"``."""
        found: Checked = getattr(self, name)
        return found

    def identity_of(self, name: str) -> str:
        """What tells a part from other data; the draw itself is named by :attr:`identity`."""
        return self.evaluation_identity if name == "evaluation" else name


def draw(data: DataSets, settings: Settings) -> Samples:
    """Draw the samples that choices are made on.

    Where the calibration data is too small for what was asked, a third of it is held out and the rest calibrates.
    """
    dataset = data.calibration
    size = len(dataset)
    if size < LEAST:
        raise InvalidData(
            f"{dataset.name} has {size} sample{'s' if size > 1 else ''}; a run needs at least {LEAST}: some set the "
            "ranges, others rank the candidates; a few hundred are usual"
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
    order = np.random.RandomState(settings.seed).permutation(size)
    picked = pick(dataset, order[: first + held])
    calibrate, score = min(first, settings.calibration_samples), min(first, settings.score_samples)

    def batches(start: int, stop: int) -> Checked:
        return Checked(_batches(picked, start, stop, settings.batch_size))

    if len(picked) > 1:
        notes += (
            f"{dataset.name} has samples of several lengths: each batch has one of them, and sites and costs are "
            "counted for a sample of the first batch.",
        )
    identity = {
        "data": digest(*(value for inputs, targets in picked for value in (*as_tuple(inputs), targets))),
        "calibration": calibrate,
        "scores": score,
        "holdout": held,
        "batch_size": settings.batch_size,
    }
    evaluation = Checked(data.evaluation.batches(settings.batch_size), purpose="evaluation")
    apart = np.concatenate([order[:first], order[first + held :]])
    return Samples(
        batches(0, calibrate),
        batches(0, score),
        batches(first, first + held),
        evaluation,
        Checked(_Picked(dataset, apart, settings.batch_size), purpose="training"),
        identity,
        data.evaluation.fingerprint(),
        notes,
    )


@dataclass(frozen=True)
class _Picked:
    """The samples at some positions in batches, read anew each time."""

    dataset: Dataset
    positions: np.ndarray
    batch_size: int

    def __iter__(self) -> Iterator[Batch]:
        # A stream is read from its beginning for each part, so it is read whole.
        part = len(self.positions) if isinstance(self.dataset, BatchStream) else PART * self.batch_size
        for start in range(0, len(self.positions), part):
            positions = self.positions[start : start + part]
            yield from _batches(pick(self.dataset, positions), 0, len(positions), self.batch_size)


def _batches(picked: list[Batch], start: int, stop: int, size: int) -> list[Batch]:
    """The samples ``start`` to ``stop - 1`` in batches; where they have several lengths, each batch has one."""
    if len(picked) == 1:
        inputs, targets = picked[0]
        parts = (slice(i, min(i + size, stop)) for i in range(start, stop, size))
        return [(select(inputs, part), targets[part]) for part in parts]
    alike: dict[tuple[Any, ...], list[Batch]] = {}
    for sample in picked[start:stop]:
        alike.setdefault(lengths(sample), []).append(sample)
    return [joined(group[i : i + size]) for group in alike.values() for i in range(0, len(group), size)]


def pick(dataset: Dataset, positions: np.ndarray) -> list[Batch]:
    """The samples at these positions, in their order: all in one, or one by one where their lengths differ."""
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
    back = torch.from_numpy(np.argsort(order, kind="stable"))
    parts = [part for part in parts if len(part[1])]
    if len({lengths(part) for part in parts}) > 1:
        singles = [(select(x, slice(i, i + 1)), y[i : i + 1]) for x, y in parts for i in range(len(y))]
        return [singles[i] for i in back]
    inputs, targets = joined(parts)
    return [(select(inputs, back), targets[back])]
