from __future__ import annotations

from dataclasses import replace

import pytest

from bitwright.cost import COSTS, Cost, Size
from bitwright.report import Measured, RunReport
from bitwright.report import format as text
from bitwright.report.panels import (
    figures_panel,
    headline,
    sensitivity_panel,
    sites_panel,
    stages,
    start_width,
)
from bitwright.values import Policy, SensitivityTable, Sites


def test_headline_is_one_sentence_with_intervals(report: RunReport) -> None:
    assert headline(report) == (
        "88.0% [86.0, 90.0] top-1 (float 90.0%, -2.0 points [-3.0, -1.0]), 5 x smaller, 5 x fewer bit operations; "
        "ONNX Runtime agrees with the simulation on 199 of 200 inputs."
    )


def test_headline_without_export_measurement_or_policy(report: RunReport, empty: RunReport) -> None:
    assert headline(replace(report, parity=None)).endswith("5 x smaller, 5 x fewer bit operations.")
    exported = replace(report, parity=None, file_bytes=2500, float_file_bytes=10_000)
    assert headline(exported).endswith("4 x smaller (a file of 2.50 KB), 5 x fewer bit operations.")
    assert RunReport.from_json(exported.to_json()).file_bytes == 2500
    assert report.chosen is not None
    unmeasured = replace(report, chosen=replace(report.chosen, verdict=None))
    assert headline(unmeasured) == (
        "mixed 4/8 was chosen by prediction: 5 x smaller, 5 x fewer bit operations; it was not measured."
    )
    assert headline(replace(unmeasured, float_costs={})) == ("mixed 4/8 was chosen by prediction; it was not measured.")
    assert headline(empty) == "This run has not chosen a policy yet."


def test_a_cost_of_another_package_stands_in_the_headline_if_it_says_so(report: RunReport) -> None:
    about = {"does": "Energy.", "unit": "joules", "headline": ("less energy", "more energy"), "symbol": "J"}
    energy = COSTS.register(Cost(name="energy", order=90, function=lambda weight_bytes: Size(), **about))
    try:
        chosen = replace(report.chosen, costs={**report.chosen.costs, "energy": 2.0})
        costs = {**report.float_costs, "energy": 20.0}
        assert "fewer bit operations, 10 x less energy;" in headline(replace(report, chosen=chosen, float_costs=costs))
        assert text.cost("energy", 2.0) == "2.00 J"
    finally:
        COSTS.remove(energy.name)


def test_a_policy_for_another_budget_is_no_baseline(report: RunReport) -> None:
    assert report.chosen is not None
    other = replace(report.chosen, policy=report.chosen.policy.replaced({}, "size=30%"))
    panel = figures_panel(replace(report, alternatives=(other,)))
    assert [(row.label, row.role) for row in panel.rows] == [
        ("float", "float"), ("W4A4", "baseline"), ("size=30%", "alternative"), ("mixed 4/8", "chosen"),
    ]  # fmt: skip


def test_figures_have_float_first_and_the_chosen_policy_last(report: RunReport) -> None:
    panel = figures_panel(report)
    assert [(row.label, row.role) for row in panel.rows] == [
        ("float", "float"), ("W4A4", "baseline"), ("mixed 4/8", "chosen"),
    ]  # fmt: skip
    reference, baseline, chosen = panel.rows
    assert panel.headings == (
        "Top-1 %", "Change, points", "Agrees with float %", "KL to float, nats", "Loss", "F1 <macro>",
    )  # fmt: skip
    assert reference.cells == ("90.0 [88.0, 92.0]", "–", "–", "–", "0.400 [0.350, 0.450]", "0.900")
    assert reference.costs == {"size": 800.0, "bops": 8e6}
    assert baseline.cells[2] == "90.0 [89.0, 91.0]"
    assert chosen.cells[:2] == ("88.0 [86.0, 90.0]", "-2.0 [-3.0, -1.0]")
    assert chosen.cells[-1] == "0.875"
    assert panel.samples == 200
    assert panel.cost_metrics == ("size", "bops")
    assert panel.axis == pytest.approx((0.83 - 0.05 * 0.09, 0.92 + 0.05 * 0.09))
    assert panel.intervals == (
        "In brackets, intervals over 200 inputs; accuracy, agreement: 95% Wilson; "
        "change: 95% paired bootstrap; KL, loss: 95% bootstrap; F1 <macro>: none, since it is not a mean over inputs."
    )


def test_figures_of_a_policy_that_was_not_measured(empty: RunReport, sites: Sites) -> None:
    panel = figures_panel(replace(empty, chosen=Measured(Policy.uniform(sites, 4, 8), {"size": 3.0})))
    assert panel.samples == 0
    assert panel.rows[1].primary is None
    assert panel.rows[1].label == "W4A8"
    assert panel.axis == (0.0, 1.0)


def test_sites_panel_weighs_bits_by_elements(sites: Sites) -> None:
    policy = Policy({"stem.conv.weight": 8, "body.conv.weight": 2, "input": 4})
    panel = sites_panel(sites, policy)
    # Weights: 108 elements at 8 bits, 144 at 2, 40 in float; activations: 192 at 4, 256 + 256 + 10 in float.
    assert panel.mean_weight_bits == pytest.approx((108 * 8 + 144 * 2 + 40 * 32) / 292)
    assert panel.mean_activation_bits == pytest.approx((192 * 4 + 522 * 32) / 714)
    assert panel.rows[1].bits == 8
    assert panel.rows[2].bits is None
    assert panel.rows[1].scheme == "symmetric, signed, scale per channel"
    assert panel.rows[0].scheme == "asymmetric, unsigned, one scale"
    assert [(s.label, s.positions) for s in panel.activation_stages] == [
        ("input", (0,)), ("stem", (2,)), ("body", (4,)), ("head", (6,)),
    ]  # fmt: skip
    assert [s.positions for s in panel.weight_stages] == [(1,), (3,), (5,)]


def test_stages_go_deeper_until_there_are_three() -> None:
    names = ["features.0.conv.weight", "features.0.conv2.weight", "features.1.conv.weight", "features.2.weight"]
    assert [(s.label, s.positions) for s in stages(names)] == [
        ("features.0", (0, 1)), ("features.1", (2,)), ("features.2", (3,)),
    ]  # fmt: skip
    assert stages([]) == ()


def test_sensitivity_panel_is_plain_and_starts_at_four_bits(table: SensitivityTable, sites: Sites) -> None:
    panel = sensitivity_panel(table, sites)
    assert panel["start"] == 4
    assert panel["harm"][0] == [0.04, 0.0025, 0.04 / 4096]
    assert panel["standard_error"][5][0] == pytest.approx(0.064)
    assert panel["kinds"] == [site.kind for site in sites]
    assert sensitivity_panel(table, Sites(()))["kinds"] == [""] * 7
    doubted = replace(table, doubts={"stem.relu": "why"})
    assert sensitivity_panel(doubted, sites)["doubts"] == ["why" * (name == "stem.relu") for name in table.sites]
    assert (start_width((2, 3, 8)), start_width((8,)), start_width((2, 8))) == (3, 8, 2)
