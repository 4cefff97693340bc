from __future__ import annotations

import json
from pathlib import Path

import pytest

from bitwright.errors import InvalidInput
from bitwright.report import RunReport


def test_round_trip_keeps_every_part(report: RunReport) -> None:
    back = RunReport.from_json(report.to_json())
    assert back.to_dict() == report.to_dict()
    assert back.chosen is not None
    assert back.chosen == report.chosen
    assert back.front is not None
    assert back.front[2].verdict == report.front[2].verdict
    assert back.latency == report.latency
    assert back.parity == report.parity
    assert back.agreements == report.agreements
    assert back.sites == report.sites
    assert (back.tables[0].harm == report.tables[0].harm).all()


def test_round_trip_of_an_empty_report(empty: RunReport) -> None:
    back = RunReport.from_json(empty.to_json())
    assert back == empty
    assert back.chosen is None
    assert back.reference is None


def test_settings_that_json_lacks_become_text(empty: RunReport) -> None:
    from dataclasses import replace

    report = replace(empty, job={"path": Path("a/b"), "bits": (2, 4), "deep": {"x": {1: 2}}})
    assert json.loads(report.to_json())["job"] == {"path": "a/b", "bits": [2, 4], "deep": {"x": {"1": 2}}}


def test_reference_is_the_chosen_verdict_then_any_other(report: RunReport) -> None:
    from dataclasses import replace

    assert report.chosen is not None
    assert report.reference is report.chosen.verdict
    without = replace(report, chosen=None)
    assert without.reference is report.baselines[0].verdict
    assert replace(without, baselines=()).reference is report.front[0].verdict


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", r"the report must be an object, got \[\]"),
        ('{"bitwright": "front"}', "the report: bitwright must be 'report', got 'front'"),
        ('{"bitwright": "report", "version": 99}', "version must be 3, got 99"),
    ],
)
def test_what_is_not_a_report_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        RunReport.from_json(text)
