"""The contract of named data."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from bitwright.data import Dataset, DataSets
from bitwright.data.inputs import as_tuple


class DataContract(ABC):
    """What all data must do; derive from it and write :meth:`make`."""

    @abstractmethod
    def make(self) -> DataSets:
        """Calibration and evaluation data, each time read anew."""

    def _parts(self) -> tuple[Dataset, ...]:
        data = self.make()
        return data.calibration, data.evaluation

    def test_batches_hold_every_sample_once(self) -> None:
        """In the same order each time, whatever the size of the batches."""
        for part in self._parts():
            assert len(part) > 0, f"{part.name} is empty"
            whole, again = ([inputs for inputs, _ in part.batches(size)] for size in (len(part), 3))
            for place, values in enumerate(as_tuple(whole[0])):
                parts = torch.cat([as_tuple(inputs)[place] for inputs in again])
                assert torch.equal(parts, values), f"{part.name} depends on the size of its batches"

    def test_inputs_and_targets_can_be_used(self) -> None:
        """Finite inputs, and classes that there are."""
        for part in self._parts():
            for inputs, targets in part.batches(64):
                for values in as_tuple(inputs):
                    assert torch.isfinite(values).all(), f"{part.name} holds NaN or infinite values"
                    assert len(values) == len(targets), f"{part.name}: {len(values)} inputs, {len(targets)} targets"
                if part.classes is not None:
                    assert targets.dtype == torch.int64, f"targets are class numbers, got {targets.dtype}"
                    assert int(targets.min()) >= 0, f"{part.name} has a target below 0"
                    assert int(targets.max()) < part.classes, f"{part.name} has a target above {part.classes - 1}"

    def test_parts_go_together(self) -> None:
        """The same shapes and as many classes."""
        first, second = self._parts()
        assert first.classes == second.classes
        shapes = [[tuple(values.shape[1:]) for values in as_tuple(part.read(0, 1)[0])] for part in (first, second)]
        assert shapes[0] == shapes[1], f"calibration has samples of {shapes[0]}, evaluation of {shapes[1]}"

    def test_content_has_a_fingerprint(self) -> None:
        """The same when it is read again, another one for each part."""
        first, second = self._parts()
        assert [p.fingerprint() for p in self._parts()] == [first.fingerprint(), second.fingerprint()]
        assert first.fingerprint() != second.fingerprint(), "both parts hold the same samples"
