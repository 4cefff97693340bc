"""Metrics of the user's: intervals where they are means over samples."""

from __future__ import annotations

import pytest
import torch

from bitwright.tasks.intervals import Draws, bootstrap_mean, paired_bootstrap
from bitwright.tasks.metrics import GROUPS, metered

GENERATOR = torch.Generator().manual_seed(3)
OURS, FLOATS = torch.randn(2, 150, 4, generator=GENERATOR).unbind()
TARGETS = torch.randint(0, 4, (150,), generator=GENERATOR)


def right(outputs, targets):
    return float((outputs.argmax(1) == targets).double().mean())


def test_a_mean_over_samples_has_the_interval_of_its_values():
    ours, floats = (metered({"right": right}, outputs, TARGETS)["right"] for outputs in (OURS, FLOATS))
    one, two = ((outputs.argmax(1) == TARGETS).double().numpy() for outputs in (OURS, FLOATS))
    assert ours.parts.tolist() == one.tolist()
    figure = Draws().given("right", ours, floats)
    assert figure.value == bootstrap_mean(one)
    assert figure.change == paired_bootstrap(one, two)


def test_many_samples_are_taken_in_groups():
    outputs = torch.randn(1234, 4)
    found = metered({"size": lambda z, y: float(z.square().mean())}, outputs, torch.zeros(1234))["size"]
    assert len(found.parts) == GROUPS
    assert found.parts.mean() == pytest.approx(found.value, rel=1e-6)
    interval = Draws().given("size", found, found).value
    exact = bootstrap_mean(outputs.square().mean(1).numpy())
    assert interval.high - interval.low == pytest.approx(exact.high - exact.low, rel=0.3)


def test_one_that_is_no_mean_has_none():
    def spread(outputs, targets):
        return float(outputs.std())

    def many(outputs, targets):
        if len(outputs) < 100:
            raise ValueError("too few")
        return 1.0

    for function in (spread, many):
        found = metered({"own": function}, OURS, TARGETS)["own"]
        assert len(found.parts) == 0
        assert Draws().given("own", found, found).value.method == "none"


def test_outputs_of_any_structure():
    outputs = {"a": OURS, "b": [FLOATS, None]}
    found = metered({"m": lambda z, y: float((z["a"] - z["b"][0]).abs().mean())}, outputs, {"y": TARGETS})["m"]
    assert found.parts.mean() == pytest.approx(found.value)
