from __future__ import annotations

from dataclasses import replace

import pytest

from bitwright.report import Agreement, Measured, RunReport
from bitwright.report.panels_front import front_panel, point_figures
from bitwright.values import Front, Policy, Sites


def test_points_in_order_of_cost_with_their_bits(report: RunReport, sites: Sites) -> None:
    assert report.front is not None
    panel = front_panel(report.front, sites, report.baselines, report.chosen)
    assert [(p.label, p.role, p.cost) for p in panel.points] == [
        ("mixed 2/4", "front", 100.0),
        ("W4A4", "baseline", 145.0),
        ("mixed 4/4", "front", 150.0),
        ("mixed 4/8", "chosen", 160.0),
        ("mixed 8/8", "front", 250.0),
    ]
    assert panel.selected == 3
    assert panel.points[0].bits == (4, 2, 4, 2, 4, 8, 4)
    assert panel.points[0].mean_weight_bits == pytest.approx((252 * 2 + 40 * 8) / 292)
    assert panel.points[0].mean_activation_bits == 4
    assert panel.points[0].search == "Budget size=W2A4, 95.0% of it used; proven optimal for the predicted harm"
    assert panel.points[2].search.endswith("; at most 1.00% above the optimum of the predicted harm")
    assert (panel.axis, panel.divisor, panel.logarithmic) == ("Size (B)", 1.0, False)
    assert panel.measured_points == 4
    assert panel.reference is not None
    assert panel.reference.value == 0.9
    assert panel.points[2].verdict is None


def test_a_chosen_policy_that_is_not_on_the_front_is_added(front: Front, sites: Sites) -> None:
    chosen = Measured(Policy({"input": 3}, name="mine"), {"size": 120.0}, None, 0.3)
    panel = front_panel(front, sites, (), chosen)
    assert [p.label for p in panel.points][:3] == ["mixed 2/4", "mine", "mixed 4/4"]
    assert panel.selected == 1
    assert panel.points[1].bits == (3, None, None, None, None, None, None)
    assert point_figures(panel.points[1], front.unit) == (
        ("Figures", "not measured"), ("Predicted (share of predictions that flip)", "30.00%"), ("Size", "120 B"),
    )  # fmt: skip


def test_a_measured_choice_fills_in_an_unmeasured_candidate(front: Front, sites: Sites) -> None:
    candidate = front[1]
    assert candidate.verdict is None
    verdict = front[2].verdict
    panel = front_panel(front, sites, (), Measured(candidate.policy, candidate.costs, verdict))
    point = panel.points[panel.selected]
    assert (point.label, point.role, point.verdict) == ("mixed 4/4", "chosen", verdict)


def test_wide_bops_are_logarithmic(front: Front, sites: Sites) -> None:
    wide = tuple(replace(c, costs={"bops": 10.0 ** (8 + i)}) for i, c in enumerate(front))
    panel = front_panel(Front(wide, "fit", "increase of the loss", "bops"), sites)
    assert (panel.axis, panel.divisor, panel.logarithmic) == ("BOPs per input (GBOPs)", 1e9, True)
    assert panel.selected == 2
    assert ("Predicted (increase of the loss)", "0.200") in point_figures(panel.points[0], panel.unit)


def test_policies_without_the_cost_are_left_out(front: Front, sites: Sites) -> None:
    panel = front_panel(replace(front, cost="latency"), sites, (Measured(Policy(), {"latency": 1.0}),))
    assert [p.role for p in panel.points] == ["baseline"]


def test_names_fall_back_to_the_budget_then_the_place(front: Front, sites: Sites) -> None:
    bare = tuple(replace(c, policy=replace(c.policy, name="")) for c in front)
    bare = (replace(bare[0], budgets=()), *bare[1:])
    assert [p.label for p in front_panel(replace(front, candidates=bare), sites).points][:2] == [
        "front point 1", "size=W4A4",
    ]  # fmt: skip


def test_an_agreement_says_the_correlation_in_words(report: RunReport) -> None:
    assert report.agreements[0].sentence == (
        "Spearman's rank correlation over 3 measured policies: 0.93 [0.80, 0.97] (95%, bootstrap)."
    )
    few = Agreement("fit", "increase of the loss", "top-1 accuracy", report.agreements[0].pairs)
    assert few.sentence == "3 measured policies: too few for a rank correlation."
