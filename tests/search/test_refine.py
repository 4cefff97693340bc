from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from bitwright.cost import Bops
from bitwright.errors import InvalidInput
from bitwright.search import refine, search
from bitwright.values import Front, Policy, SensitivityTable, Sites, Verdict
from verdicts import classified

BUDGETS = ["bops=W3A3", "bops=W4A4", "bops=W3A8", "bops=W6A6"]


def off_scale(table: SensitivityTable, sites: Sites, weight: float, activation: float) -> SensitivityTable:
    factors = [weight if sites[name].kind == "weight" else activation for name in table.sites]
    return replace(table, harm=table.harm * np.array(factors)[:, None])


def test_refining_finds_the_policies_of_the_true_scales(network: Sites, table: SensitivityTable) -> None:
    truth = off_scale(table, network, 0.02, 3.0)
    calls: list[Policy] = []

    def measure(policy: Policy) -> float:
        calls.append(policy)
        return truth.predict(policy)

    front = search(network, table, budgets=BUDGETS)
    result = refine(front, measure, network, table)
    best = search(network, truth, budgets=BUDGETS)
    assert [result.harm(c.policy) for c in result.front] == pytest.approx([c.predicted for c in best])
    assert [c.policy.bits for c in result.front] != [c.policy.bits for c in front]
    assert result.converged
    assert result.rounds >= 2
    assert len(calls) == len({frozenset(p.bits.items()) for p in calls}) == len(result.measured)
    assert result.front.unit == "measured harm"
    assert result.front.method == f"test, refined on {len(calls)} measurements"
    assert [c.policy.name for c in result.front] == BUDGETS
    for candidate in result.front:
        assert candidate.optimal
        assert Bops().of(candidate.policy, network) <= candidate.budgets[0].limit
        assert candidate.predicted == pytest.approx(result.harm(candidate.policy), rel=0.1)


def test_the_best_measured_policy_wins_even_against_the_prediction(network: Sites, table: SensitivityTable) -> None:
    front = search(network, table, budgets=BUDGETS)
    favourite = front[0].policy.bits

    def measure(policy: Policy) -> float:
        return 1e-9 if policy.bits == favourite else table.predict(policy)

    result = refine(front, measure, network, table, rounds=2)
    for candidate in result.front:
        fits = front[0].costs["bops"] <= candidate.budgets[0].limit
        assert (candidate.policy.bits == favourite) == fits


def test_verdicts_are_kept(network: Sites, table: SensitivityTable) -> None:
    def measure(policy: Policy) -> Verdict:
        return classified(kl=table.predict(policy), name=policy.name)

    front = search(network, table, budgets=BUDGETS)
    result = refine(front, measure, network, table)
    assert all(c.verdict is not None and c.verdict.kl.value == table.predict(c.policy) for c in result.front)
    assert result.converged


def test_unusable_measurements(network: Sites, table: SensitivityTable) -> None:
    front = search(network, table, budgets=BUDGETS)
    with pytest.raises(InvalidInput, match="measure gave nan for the policy 'bops=W3A3'"):
        refine(front, lambda policy: float("nan"), network, table)
    with pytest.raises(InvalidInput, match="needs a front from search"):
        refine(Front((), "m", "u", "bops"), lambda policy: 1.0, network, table)
    with pytest.raises(InvalidInput, match="rounds must be at least 1, got 0"):
        refine(front, table.predict, network, table, rounds=0)
    done = refine(front, table.predict, network, table)
    with pytest.raises(InvalidInput, match="'mine' was not measured"):
        done.harm(Policy({"input": 16}, name="mine"))


@pytest.mark.parametrize("measure", ["zero", "shrinking"])
def test_measurements_that_no_factor_fits_leave_the_predictions_as_they_are(
    network: Sites, table: SensitivityTable, measure: str
) -> None:
    front = search(network, table, budgets=BUDGETS)
    result = refine(front, lambda p: 0.0 if measure == "zero" else 1 / table.predict(p) - 1e6, network, table)
    assert not result.model.fitted
    assert result.converged
    assert np.array_equal(result.model.table().harm, table.harm)
    for wanted, found in zip(front, result.front, strict=True):
        assert found.predicted == table.predict(found.policy)
        assert result.harm(found.policy) <= result.harm(wanted.policy)


def test_a_budget_of_evaluations_finds_what_the_scores_do_not_know(network: Sites, table: SensitivityTable) -> None:
    """One site is far worse than its score says, which no factor of its kind can tell."""
    truth = replace(table, harm=table.harm * np.array([1.0, 1.0, 40.0, 0.2, 1.0])[:, None])
    calls: list[Policy] = []

    def measure(policy: Policy) -> float:
        calls.append(policy)
        return truth.predict(policy)

    front = search(network, table, budgets=["bops=W4A4"])
    (best,) = search(network, truth, budgets=["bops=W4A4"])
    result = refine(front, measure, network, table, evaluations=25)
    assert len(calls) == len(set(calls)) <= 25
    assert result.harm(result.front[0].policy) <= 1.02 * best.predicted
    assert best.predicted < 0.8 * truth.predict(front[0].policy)
    course = result.front.course
    assert course[0].measured == 1
    assert course[0].harms == (truth.predict(front[0].policy),)
    assert course[-1].harms == (result.harm(result.front[0].policy),)
    assert all(a.harms[0] > b.harms[0] for a, b in pairwise(course))
    assert result.front.regret[0] < 0.3
    again = refine(front, truth.predict, network, table, evaluations=25)
    assert again.measured == result.measured
    other = refine(front, truth.predict, network, table)
    assert other.front.course == other.front.regret == ()


def test_weights_alone_are_no_candidate(network: Sites, table: SensitivityTable) -> None:
    """Their harm is smaller, and they keep a budget in bytes."""
    front = search(network, table, budgets=["size=30%"])
    result = refine(front, table.predict, network, table)
    assert any(len(policy.bits) < len(network) for policy, _ in result.measured)
    assert len(result.front[0].policy.bits) == len(network)


def test_a_budget_that_is_too_small(network: Sites, table: SensitivityTable) -> None:
    front = search(network, table, budgets=BUDGETS)
    with pytest.raises(
        InvalidInput, match="evaluations must be at least 4, one for each candidate of the front, got 3"
    ):
        refine(front, table.predict, network, table, evaluations=3)
    done = refine(front, table.predict, network, table, minutes=1e-9)
    assert len(done.measured) == 4
