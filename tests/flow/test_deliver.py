from __future__ import annotations

import pytest

from bitwright.flow.deliver import warnings
from bitwright.tasks.classification import AGREEMENT
from bitwright.values import Closeness, Drift, Parity


@pytest.mark.parametrize(
    ("exact", "fused", "words"),
    [
        (1.0, 1.0, []),
        (1.0, 0.995, []),
        (1.0, 0.981, ["optimisations on", "1.9% of its predictions differ"]),
        (0.9999, 0.9999, []),
        (0.999, 1.0, ["even with its graph optimisations off"]),
    ],
)
def test_a_file_that_predicts_otherwise_is_said_so(exact: float, fused: float, words: list[str]) -> None:
    found = warnings(Parity("onnxruntime 1", 1000, 0.0, 0.0, None, AGREEMENT, exact, fused))
    assert len(found) == bool(words)
    assert all(word in found[0] for word in words)


@pytest.mark.parametrize("agreement", [None, 1.0])
@pytest.mark.parametrize("part", ["exact", "fused"])
@pytest.mark.parametrize(("steps", "warned"), [(1.0, False), (1.1, True)])
def test_values_that_differ_by_more_than_a_step_are_warned_of_for_every_task(agreement, part, steps, warned) -> None:
    values = {part: Closeness(steps, 0.01, 40.0), f"{part}_drift": Drift("stem.conv", "conv2d", 2.0, 0.0123)}
    measure = None if agreement is None else AGREEMENT
    found = warnings(Parity("onnxruntime 1", 1000, 0.0, 0.0, None, measure, agreement, agreement, **values))
    assert bool(found) is warned
    if warned:
        assert "its outputs differ by up to 1.10 output steps (relative error 1.00%, SQNR 40.0 dB)" in found[0]
        assert "the first values to differ are those of 'stem.conv' (conv2d), 1.23% of them, by up to 2.00" in found[0]
        assert ("even with its graph optimisations off" in found[0]) is (part == "exact")


@pytest.mark.parametrize(("middle", "said"), [(3e-6, True), (0.3, False), (None, False)])
def test_values_in_the_middle_are_said_to_be_the_cause(middle: float | None, said: bool) -> None:
    drift = Drift("norm", "layer_norm", 1.0, 0.01, middle)
    parity = Parity("onnxruntime 1", 1000, 2.0, 2.0, None, exact=Closeness(2.0, 0.1, 20.0), exact_drift=drift)
    words = "by up to 1.00 step: unrounded, they lie within 3e-06 steps of the middle between two, where the last digit"
    assert (words in warnings(parity)[0]) is said


def test_a_runtime_without_optimisations_has_none_to_switch_off() -> None:
    (said,) = warnings(Parity("ExecuTorch 1", 1000, None, 9.0, None, fused=Closeness(9.0, 0.1, 20.0)))
    assert "its kernels round differently: its outputs differ by up to 9.00" in said
    assert "optimisations" not in said


def test_a_difference_with_optimisations_off_that_no_site_shows_is_to_be_reported() -> None:
    parity = Parity("onnxruntime 1", 1000, 9.0, 9.0, None, exact=Closeness(9.0, 0.1, 20.0))
    assert warnings(parity)[0].endswith("please report this with the model")
