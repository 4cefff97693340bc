from __future__ import annotations

import pytest

from bitwright.errors import InvalidInput
from bitwright.report import RunReport
from bitwright.report.compare import compare_panel, primary_difference
from bitwright.tasks import wilson
from verdicts import classified


def test_bits_that_differ_and_sites_that_one_graph_lacks(report: RunReport, other: RunReport) -> None:
    panel = compare_panel([report, other])
    assert [(row.name, row.bits) for row in panel.changed] == [
        ("stem.conv.weight", ("4", "8")), ("body.conv.weight", ("4", "8")), ("head", ("8", "not in this graph")),
    ]  # fmt: skip
    assert panel.unchanged == 4
    assert [(c.label, c.policy, c.figures[0]) for c in panel.columns] == [
        ("Tiny <net> & friends", "mixed 4/8", "88.0% [86.0, 90.0]"), ("Other", "W8A8", "90.0% [88.0, 92.0]"),
    ]  # fmt: skip
    assert panel.columns[0].costs == ("160 B", "1.60 MBOPs")


def test_accuracy_difference_always_has_an_interval(report: RunReport, other: RunReport) -> None:
    difference = compare_panel([report, other]).differences[0]
    assert difference.primary is not None
    half = (0.02**2 + 0.02**2) ** 0.5
    assert (difference.primary.value, difference.primary.low, difference.primary.high) == pytest.approx(
        (0.02, 0.02 - half, 0.02 + half)
    )
    assert difference.changed_sites == 3
    assert dict(difference.costs) == pytest.approx({"Size": 250 / 160, "BOPs per input": 250 / 160})
    assert compare_panel([report, other]).headline == (
        "Other against Tiny <net> & friends: accuracy +2.0 points [-0.8, +4.8], 1.56 times the size, "
        "1.56 times the BOPs per input; 3 of 7 sites do not have the same bits in all runs."
    )


def test_newcombe_interval_of_a_published_example() -> None:
    """Newcombe (1998), table II, example (a): 56/70 against 48/80, method 10: 0.2000 [0.0524, 0.3339]."""
    found = primary_difference(classified(wilson(48, 80)), classified(wilson(56, 70)))
    assert found is not None
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)


def test_runs_without_a_choice_or_a_measurement_are_said_so(report: RunReport, empty: RunReport) -> None:
    panel = compare_panel([report, empty, report])
    assert panel.columns[1].policy == "none chosen"
    assert set(panel.columns[1].figures) == {"not measured"}
    assert panel.columns[1].costs == ("not known", "not known")
    assert panel.differences[0].primary is None
    assert panel.differences[1].changed_sites == 0
    assert {row.bits[1] for row in panel.changed} == {"none chosen"}
    assert [c.label for c in panel.columns] == ["Tiny <net> & friends (1)", "Unfinished", "Tiny <net> & friends (3)"]
    assert panel.headline == "7 of 7 sites do not have the same bits in all runs."


def test_too_few_runs_or_names(report: RunReport) -> None:
    with pytest.raises(InvalidInput, match="compare needs at least 2 runs, got 1"):
        compare_panel([report])
    with pytest.raises(InvalidInput, match="one entry for each of the 2 runs, got 1"):
        compare_panel([report, report], ["a"])
