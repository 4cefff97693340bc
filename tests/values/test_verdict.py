from __future__ import annotations

import pytest

from bitwright.values import Interval
from bitwright.values.verdict import Figure, Measure, outcome_of, samples_to_decide


@pytest.mark.parametrize(
    ("low", "value", "high", "target", "outcome"),
    [
        (-0.2, 0.1, 0.5, 0.5, "holds"),  # up to the target itself
        (-0.2, 0.1, 0.6, 0.5, "undecided"),
        (0.4, 0.9, 1.4, 0.5, "undecided"),
        (0.5, 0.9, 1.4, 0.5, "undecided"),
        (0.6, 0.9, 1.4, 0.5, "fails"),
        (0.0, 0.0, 0.0, 0.0, "holds"),
    ],
)
def test_a_target_is_judged_by_the_ends_of_the_interval(low, value, high, target, outcome) -> None:
    change = Interval(-value / 100, -high / 100, -low / 100, method="paired bootstrap")
    accuracy = Interval(0.9, 0.9, 0.9)
    lost = Figure(Measure("accuracy", "Top-1", "share"), accuracy, accuracy, change).lost
    assert (lost.value, lost.low, lost.high) == pytest.approx((value, low, high))
    assert (lost.level, lost.method) == (0.95, "paired bootstrap")
    assert outcome_of(lost, target) == outcome


def test_how_many_samples_would_decide() -> None:
    # The upper end lies 0.6 above the value, the target 0.3: half the width takes four times the samples.
    assert samples_to_decide(Interval(0.2, -0.4, 0.8), 0.5, 500) == 2000
    # From the other side: the lower end lies 0.8 below the value, the target 0.4.
    assert samples_to_decide(Interval(0.9, 0.1, 1.5), 0.5, 846) == 3400  # 3,384, rounded up
    assert samples_to_decide(Interval(0.2, 0.0, 0.4), 0.5, 500) is None  # holds
    assert samples_to_decide(Interval(0.5, 0.0, 1.0), 0.5, 500) is None  # no number would
    assert samples_to_decide(Interval(0.9, 0.5, 1.5), 0.5, 500) is None  # the end touches the target: any more


@pytest.mark.parametrize(
    ("heading", "words"),
    [("KL to float", "KL to float"), ("Bernoulli KL", "Bernoulli KL"), ("Mean IoU", "mean IoU"), ("Loss", "loss")],
)
def test_a_heading_inside_a_sentence_keeps_its_capital_where_it_is_a_name(heading, words):
    assert Measure("any", heading).words == words
