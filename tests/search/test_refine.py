from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bitwright.cost import Bops
from bitwright.errors import InvalidInput
from bitwright.search import Calibration, fit_calibration, refine, search
from bitwright.values import Front, MarginModel, Policy, SensitivityTable, Sites, Verdict
from verdicts import classified

BUDGETS = ["bops=W3A3", "bops=W4A4", "bops=W3A8", "bops=W6A6"]


def off_scale(table: SensitivityTable, sites: Sites, weight: float, activation: float) -> SensitivityTable:
    return replace(Calibration(weight, activation).table(table, sites), method=table.method)


def random_policies(sites: Sites, bits: tuple[int, ...], count: int) -> list[Policy]:
    rng = np.random.default_rng(0)
    return [Policy({s: int(rng.choice(bits)) for s in sites.names}, name=f"random {i}") for i in range(count)]


def test_the_factors_are_found_again(network: Sites, table: SensitivityTable) -> None:
    truth = off_scale(table, network, 7.0, 0.05)
    policies = random_policies(network, table.bits, 6)
    fit = fit_calibration(table, network, policies, [truth.predict(p) for p in policies])
    assert fit.weight == pytest.approx(7.0, rel=0.15)
    assert fit.activation == pytest.approx(0.05, rel=0.35)  # pulled towards 1 by the prior
    assert fit.error < 0.1
    assert fit.policies == 6
    corrected = fit.table(table, network)
    assert [corrected.predict(p) for p in policies] == pytest.approx([truth.predict(p) for p in policies], rel=0.2)


def test_a_margin_model_is_scaled_in_its_variances(network: Sites, table: SensitivityTable) -> None:
    rng = np.random.default_rng(2)
    shares = rng.exponential(1, (200, 5))
    margin = MarginModel(np.abs(rng.normal(1, 1, 200)), table.harm, shares)
    table = replace(table, margin=margin)
    known = Calibration(5.0, 0.2, 3.0)
    truth = known.table(table, network)
    policies = random_policies(network, table.bits, 8)
    policies.append(Policy.uniform(network, max(table.bits), max(table.bits)))
    harms = [known.predict(truth, p) for p in policies]
    fit = fit_calibration(table, network, policies, harms)
    corrected = fit.table(table, network)
    assert [fit.predict(corrected, p) for p in policies] == pytest.approx(harms, rel=0.1)
    assert fit.weight / fit.activation == pytest.approx(25, rel=0.3)
    assert fit.error < 0.1


def test_a_distance_is_predicted_where_no_decision_flips(network: Sites, table: SensitivityTable) -> None:
    """With wide margins the flip rate at many bits is nil, but outputs still move."""
    margin = MarginModel(np.full(50, 4.0), table.harm / table.harm.max(), np.ones((50, 5)))
    table = replace(table, margin=margin)
    policies = [Policy.uniform(network, b, b) for b in table.bits]
    harms = [Calibration(2.0, 2.0, 1.0).predict(Calibration(2.0, 2.0).table(table, network), p) for p in policies]
    assert table.predict(policies[-1]) < 1e-12 < 1e-7 < harms[-1]
    fit = fit_calibration(table, network, policies, harms)
    assert fit.predict(fit.table(table, network), policies[-1]) == pytest.approx(harms[-1], rel=0.2)


def test_similar_policies_leave_the_ratio_near_one(network: Sites, table: SensitivityTable) -> None:
    policies = [Policy.uniform(network, b, b) for b in (3, 4)]
    fit = fit_calibration(table, network, policies, [100 * table.predict(p) for p in policies])
    assert fit.weight == pytest.approx(100, rel=0.05)
    assert fit.activation == pytest.approx(100, rel=0.05)


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
    with pytest.raises(InvalidInput, match="one for each of the 1 policies, got 2"):
        fit_calibration(table, network, [front[0].policy], [1.0, 2.0])
    done = refine(front, table.predict, network, table)
    with pytest.raises(InvalidInput, match="'mine' was not measured"):
        done.harm(Policy({"input": 16}, name="mine"))


@pytest.mark.parametrize("measure", ["zero", "shrinking"])
def test_measurements_that_no_factor_fits_leave_the_predictions_as_they_are(
    network: Sites, table: SensitivityTable, measure: str
) -> None:
    front = search(network, table, budgets=BUDGETS)
    result = refine(front, lambda p: 0.0 if measure == "zero" else 1 / table.predict(p) - 1e6, network, table)
    assert not result.calibration.fitted
    assert result.converged
    assert np.array_equal(result.table.harm, table.harm)
    for wanted, found in zip(front, result.front, strict=True):
        assert found.predicted == table.predict(found.policy)
        assert result.harm(found.policy) <= result.harm(wanted.policy)
    assert not fit_calibration(table, network, [front[0].policy], [1.0]).fitted
