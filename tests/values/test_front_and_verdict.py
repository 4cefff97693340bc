from __future__ import annotations

import json

from bitwright.values import Budget, Candidate, Front, Interval, Latency, Parity, Policy, Verdict
from verdicts import classified


def verdict():
    return classified(samples=846, name="W4A8", own={"top-5": (0.98, 0.99)})


def test_an_interval_shows_its_ends():
    assert f"{Interval(0.9123, 0.88, 0.934):.1%}" == "91.2% [88.0%, 93.4%]"


def test_a_verdict_goes_there_and_back():
    assert Verdict.from_dict(verdict().to_dict()) == verdict()


def test_a_front_goes_there_and_back():
    candidates = (
        Candidate(
            Policy({"a": 4}, "cafe", "one"), 0.1, {"bops": 5.0}, (Budget("bops", 6.0, "bops=W4A4"),), True, 0.0,
            {"bops": 0.83}, verdict(),
        ),
        Candidate(Policy({"a": 8}), 0.0, {"bops": 10.0}),
    )  # fmt: skip
    front = Front(candidates, "margin-fit", "share", "bops")
    again = Front.from_json(front.to_json())
    assert again == front
    assert [c.policy for c in again] == [c.policy for c in front]
    assert (len(again), again[0].budgets[0].text) == (2, "bops=W4A4")


def test_parity_and_latency_are_plain_data():
    parity = Parity("onnxruntime", 10, 0.0, 1.0)
    assert Parity.from_dict(parity.to_dict()) == parity
    figure = verdict().primary
    known = Parity("onnxruntime", 10, 0.0, 1.0, 0.1, figure.measure, 1.0, 0.999, figure, figure)
    assert Parity.from_dict(json.loads(json.dumps(known.to_dict()))) == known
    latency = Latency(1, 0.5, 1.0, ("add",))
    assert Latency(**{**latency.to_dict(), "unfused": tuple(latency.to_dict()["unfused"])}) == latency
