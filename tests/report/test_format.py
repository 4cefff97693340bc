from __future__ import annotations

import math

import pytest

from bitwright.report import format as text
from bitwright.values import Interval
from bitwright.values.table import FLIPS
from verdicts import classified


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.0, "0"), (0.012345, "0.0123"), (1.0, "1.00"), (123.4, "123"), (12345.6, "12,346"), (1.2e-7, "1.20e-07"),
     (3e9, "3.00e+09"), (-0.5, "-0.500"), (math.nan, "not finite"), (math.inf, "not finite")],
)  # fmt: skip
def test_significant(value: float, expected: str) -> None:
    assert text.significant(value) == expected


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.909, "90.9%"), (1.0, "100.0%"), (0.99999, "99.9%"), (0.0, "0.0%"), (math.nan, "not finite")]
)  # fmt: skip
def test_percent_never_rounds_up_to_all(share: float, expected: str) -> None:
    assert text.percent(share) == expected


def test_intervals() -> None:
    assert text.percent_interval(Interval(0.909, 0.888, 0.927)) == "90.9% [88.8, 92.7]"
    assert text.points_interval(Interval(-0.008, -0.017, 0.001)) == "-0.8 points [-1.7, +0.1]"
    assert text.points_interval(Interval(-0.0001, -0.002, 0.002), unit=False) == "0.0 [-0.2, +0.2]"
    assert text.number_interval(Interval(0.3123, 0.28, 0.345)) == "0.312 [0.280, 0.345]"
    assert text.number_interval(Interval(1.5e-6, 1e-6, 2e-6)) == "1.50e-06 [1.00e-06, 2.00e-06]"


@pytest.mark.parametrize(
    ("metric", "value", "expected"),
    [("size", 65312, "65.3 KB"), ("size", 812, "812 B"), ("size", 1.08e6, "1.08 MB"), ("bops", 6.5e8, "650 MBOPs"),
     ("bops", 12.0, "12.0 BOPs"), ("latency", 0.0012, "1.20 ms"), ("energy", 3.5, "3.50"), ("size", 0, "0 B")],
)  # fmt: skip
def test_cost_has_its_unit(metric: str, value: float, expected: str) -> None:
    assert text.cost(metric, value) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.0452, "45.2 ms"), (3.21, "3.2 s"), (75.2, "1 min 15 s"), (3661, "1 h 1 min"), (2e-5, "20.0 µs")]
)  # fmt: skip
def test_duration(seconds: float, expected: str) -> None:
    assert text.duration(seconds) == expected


def test_settings_are_flat() -> None:
    job = {"data": {"a": 1, "b": {"c": [2, 3]}}, "fast": False, "seed": None, "none": []}
    assert text.settings(job) == (
        ("data.a", "1"), ("data.b.c", "2, 3"), ("fast", "no"), ("seed", "not set"), ("none", "none"),
    )  # fmt: skip


def test_count() -> None:
    assert text.count(843 / 846, 846) == "843 of 846"


def test_what_became_of_a_cost() -> None:
    assert text.times(811, 100, "smaller", "larger") == "8.1 x smaller"
    assert text.times(8, 1, "smaller", "larger") == "8 x smaller"
    assert text.times(64.4, 1, "smaller", "larger") == "64 x smaller"
    assert text.times(10, 12, "smaller", "larger") == "1.2 x larger"
    assert text.times(100, 103, "smaller", "larger") == "1.03 x larger"


def test_whether_a_target_holds_in_words() -> None:
    change = Interval(-0.002, -0.008, 0.004, method="paired bootstrap")
    verdict = classified(change=change, samples=500)
    assert text.target_sentence(verdict, 1) == "The target of 1 point holds: the whole interval is within it."
    assert text.target_sentence(verdict, 0.5) == (
        "Whether the target of 0.5 points holds is undecided: the interval lies on both sides; about 2,000 evaluation "
        "samples would probably decide it, not 500."
    )
    one = classified(change=Interval(-0.02, -0.02, -0.02, method="none"))
    assert text.target_sentence(one, 0.5) == "The target of 0.5 points does not hold."


def test_a_predicted_share_is_in_percent_by_its_unit_not_by_a_word_in_it() -> None:
    assert text.predicted(0.0123, FLIPS) == "1.23%"
    assert text.predicted(12.3, "bits that flip") == "12.3"
