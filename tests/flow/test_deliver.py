from __future__ import annotations

import pytest

from bitwright.flow.deliver import warnings
from bitwright.tasks.classification import AGREEMENT
from bitwright.values import Parity


@pytest.mark.parametrize(
    ("exact", "fused", "words"),
    [
        (1.0, 1.0, []),
        (1.0, 0.995, []),
        (1.0, 0.981, ["optimisations on", "1.9% of the runtime's predictions"]),
        (0.9999, 0.9999, []),
        (0.999, 1.0, ["even with its graph optimisations off"]),
    ],
)
def test_a_file_that_predicts_otherwise_is_said_so(exact: float, fused: float, words: list[str]) -> None:
    found = warnings(Parity("onnxruntime 1", 1000, 0.0, 0.0, None, AGREEMENT, exact, fused))
    assert len(found) == bool(words)
    assert all(word in found[0] for word in words)


@pytest.mark.parametrize(("difference", "step", "warned"), [(1.0, 0.1, False), (3.0, 0.1, True), (3.0, None, False)])
def test_a_regression_that_differs_by_steps_is_warned_of(difference, step, warned) -> None:
    found = warnings(Parity("onnxruntime 1", 1000, difference, difference, step))
    assert bool(found) is warned
