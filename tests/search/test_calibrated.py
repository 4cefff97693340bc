from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bitwright.errors import InvalidInput
from bitwright.search import calibrated, spread
from bitwright.search.calibrated import Curve, Mixture
from bitwright.values import FLOAT, MarginModel, Policy, SensitivityTable, Sites
from verdicts import classified


def random_policies(sites: Sites, bits: tuple[int, ...], count: int, seed: int = 0) -> list[Policy]:
    rng = np.random.default_rng(seed)
    return [Policy({s: int(rng.choice(bits)) for s in sites.names}, name=f"random {i}") for i in range(count)]


def scaled(table: SensitivityTable, factors: list[float]) -> SensitivityTable:
    return replace(table, harm=table.harm * np.array(factors)[:, None])


def by_kind(sites: Sites, weight: float, activation: float) -> list[float]:
    return [weight if site.kind == "weight" else activation for site in sites]


class TestMixture:
    @pytest.fixture
    def made(self) -> tuple[Mixture, np.ndarray, np.ndarray]:
        """One choice of features, and the amount left over that is likeliest."""
        rng = np.random.default_rng(0)
        rows = rng.normal(size=(9, 3))
        target = rows @ [1.0, -0.5, 2.0] + 0.2 * rng.normal(size=9)
        mixture = Mixture([rows], [target])
        best = int(np.argmax(mixture._shares))
        mixture._members, mixture._shares = [mixture._members[best]], np.ones(1)
        return mixture, rows, target

    @staticmethod
    def brute(rows: np.ndarray, target: np.ndarray, left: float) -> tuple[np.ndarray, np.ndarray]:
        """Mean and covariance of the weights of the constant and the features, all N(0, 1) before."""
        full = np.concatenate([np.ones((len(rows), 1)), rows], 1)
        covariance = np.linalg.inv(np.eye(full.shape[1]) + full.T @ full / left**2)
        return covariance @ full.T @ target / left**2, covariance

    def test_it_is_bayesian_linear_regression(self, made):
        mixture, rows, target = made
        left = mixture._members[0][1]
        weights, covariance = self.brute(rows, target, left)
        new = np.array([[0.3, -1.0, 0.5], [2.0, 0.0, 1.0]])
        full = np.concatenate([np.ones((2, 1)), new], 1)
        mean, sure, deviation = mixture.predict([new], [np.array([10.0, 20.0])])
        np.testing.assert_allclose(mean, full @ weights + [10.0, 20.0], rtol=1e-9)
        variance = np.einsum("ij,jk,ik->i", full, covariance, full)
        np.testing.assert_allclose(sure, np.sqrt(variance), rtol=1e-6)
        np.testing.assert_allclose(deviation, np.sqrt(variance + left**2), rtol=1e-6)
        np.testing.assert_allclose(mixture.weights(None)[0][2], weights[1:], rtol=1e-9)

    def test_leaving_one_out_is_fitting_without_it(self, made):
        mixture, rows, target = made
        left = mixture._members[0][1]
        mean, deviation = mixture.left_out([np.zeros(9)])
        for i in range(9):
            rest = np.arange(9) != i
            weights, covariance = self.brute(rows[rest], target[rest], left)
            full = np.concatenate([[1.0], rows[i]])
            assert mean[i] == pytest.approx(full @ weights)
            assert deviation[i] == pytest.approx(np.sqrt(full @ covariance @ full + left**2))

    def test_draws_have_the_mean_and_the_covariance_of_the_weights(self, made):
        mixture, rows, target = made
        weights, covariance = self.brute(rows, target, mixture._members[0][1])
        generator = np.random.default_rng(1)
        drawn = np.array([mixture.weights(generator)[0][2] for _ in range(4000)])
        deviation = np.sqrt(np.diag(covariance)[1:])
        assert (np.abs(drawn.mean(0) - weights[1:]) < 4 * deviation / 4000**0.5).all()
        np.testing.assert_allclose(np.cov(drawn.T), covariance[1:, 1:], atol=0.1 * deviation.max() ** 2)

    def test_choices_count_by_their_likelihood(self):
        rng = np.random.default_rng(0)
        right, wrong = rng.normal(size=(20, 1)), rng.normal(size=(20, 1))
        mixture = Mixture([wrong, right], [right[:, 0], right[:, 0]])
        assert {which for which, _, _ in mixture._members} == {1}
        held = Mixture([wrong, right], [right[:, 0], right[:, 0]], priors=[0.0, -1e6])
        assert {which for which, _, _ in held._members} == {0}


def test_scales_of_weights_and_activations_are_found_again(network: Sites, table: SensitivityTable) -> None:
    truth = scaled(table, by_kind(network, 7.0, 0.2))
    policies = random_policies(network, table.bits, 12)
    model = calibrated(table, network, {p: 100 * truth.predict(p) for p in policies})
    others = random_policies(network, table.bits, 15, seed=1)
    for policy in others:
        assert model.harm(policy) == pytest.approx(100 * truth.predict(policy), rel=0.25)
    ratios = model.table().harm[:, 0] / table.harm[:, 0]
    weight, activation = (
        np.mean([r for r, s in zip(ratios, network, strict=True) if s.kind == kind])
        for kind in ("weight", "activation")
    )
    assert weight / activation == pytest.approx(35.0, rel=0.4)
    assert model.trusted
    assert model.spearman > 0.95
    assert model.harm(FLOAT) == model.predict(FLOAT).distance.high == 0.0


def test_a_margin_model_is_scaled_in_its_variances(network: Sites, table: SensitivityTable) -> None:
    rng = np.random.default_rng(2)
    margin = MarginModel(np.abs(rng.normal(1, 1, 200)), table.harm, rng.exponential(1, (200, 5)))
    made = replace(table, margin=margin)
    factors = np.array(by_kind(network, 5.0, 0.2))[:, None]
    truth = replace(margin, variances=margin.variances * factors)

    def distance(policy: Policy) -> float:
        rows, columns = [table.row(s) for s in policy.bits], [table.column(b) for b in policy.bits.values()]
        return float(3.0 * truth.distance(truth.variance(rows, columns)))

    model = calibrated(made, network, {p: distance(p) for p in random_policies(network, table.bits, 12)})
    for policy in random_policies(network, table.bits, 20, seed=1):
        assert model.harm(policy) == pytest.approx(distance(policy), rel=0.3)
    found = model.table().margin
    assert found is not None
    ratio = (found.variances / margin.variances)[:, 0]
    assert ratio[1] / ratio[0] == pytest.approx(25.0, rel=0.5)


def test_one_site_that_is_far_off_is_found(network: Sites, table: SensitivityTable) -> None:
    truth = scaled(table, [1.0, 1.0, 12.0, 1.0, 1.0])
    policies = random_policies(network, table.bits, 30)
    factors = calibrated(table, network, {p: truth.predict(p) for p in policies}).table().harm / table.harm
    assert int(np.argmax(factors[:, 0])) == 2


def test_nine_in_ten_measurements_are_inside_the_intervals(network: Sites, table: SensitivityTable) -> None:
    inside = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        truth = scaled(table, list(np.exp(rng.normal(0, 0.7, 5))))
        policies = random_policies(network, table.bits, 32, seed)
        harms = [truth.predict(p) * float(np.exp(0.2 * rng.normal())) for p in policies]
        model = calibrated(table, network, dict(zip(policies[:12], harms[:12], strict=True)))
        for policy, harm in zip(policies[12:], harms[12:], strict=True):
            found = model.predict(policy).distance
            assert (found.level, found.low < found.value < found.high) == (0.9, True)
            inside.append(found.low <= harm <= found.high)
    assert 0.83 <= np.mean(inside) <= 0.97


def test_scores_of_several_methods_are_averaged(network: Sites, table: SensitivityTable) -> None:
    """Each is right about what the other is wrong about, so together they are better than either."""
    rng = np.random.default_rng(0)
    error = np.exp(rng.normal(0, 1.0, table.harm.shape))
    pair = [replace(table, harm=table.harm * error), replace(table, harm=table.harm / error)]
    measured = {p: table.predict(p) for p in random_policies(network, table.bits, 12)}
    others = random_policies(network, table.bits, 20, seed=1)

    def off(scores: list[SensitivityTable]) -> float:
        model = calibrated(scores, network, measured)
        return float(np.mean([np.log(model.harm(p) / table.predict(p)) ** 2 for p in others]))

    assert off(pair) < 0.7 * min(off(pair[:1]), off(pair[1:]))


def test_other_figures_follow_the_distance(network: Sites, table: SensitivityTable) -> None:
    def verdict(policy: Policy):
        kl = table.predict(policy)
        return classified(kl=kl, accuracy=float(np.round(500 / (1 + kl)) / 500))

    policies = random_policies(network, table.bits, 16)
    model = calibrated(table, network, {p: verdict(p) for p in policies})
    for policy in random_policies(network, table.bits, 20, seed=1):
        found = model.predict(policy).figures
        assert list(found)[0] == "kl"
        assert found["accuracy"].value == pytest.approx(verdict(policy).accuracy.value, abs=0.03)


class TestCurve:
    def test_a_share_stays_one_and_counts_whole_samples(self):
        curve = Curve(np.linspace(-3, 0, 10), np.full(10, 1.0), 200)
        found = curve.at(-1.0, 0.9)
        assert found.value == pytest.approx(1.0, abs=1e-3)
        assert found.high == 1.0
        assert found.low * 200 == pytest.approx(round(found.low * 200))

    def test_what_bends_is_followed(self):
        at = np.linspace(-3, 3, 25)
        curve = Curve(at, np.maximum(at, 0.0), None)
        assert curve.at(-2.0, 0.9).value == pytest.approx(0.0, abs=0.2)
        assert curve.at(2.0, 0.9).value == pytest.approx(2.0, abs=0.2)


class TestTrust:
    def test_too_few(self, network, table):
        policies = random_policies(network, table.bits, 4)
        model = calibrated(table, network, {p: table.predict(p) for p in policies})
        assert model.doubts == ("only 4 policies were measured, of at least 6",)
        assert "only 4 policies" in model.predict(policies[0]).doubt

    def test_measurements_that_have_nothing_to_do_with_the_scores(self, network, table):
        rng = np.random.default_rng(3)
        policies = random_policies(network, table.bits, 14)
        model = calibrated(table, network, {p: float(np.exp(rng.normal())) for p in policies})
        assert not model.trusted
        assert "rank correlation" in model.doubts[0] or "does not grow" in model.doubts[0]

    def test_far_beyond_what_was_measured(self, network, table):
        policies = random_policies(network, (6, 8), 14)
        model = calibrated(table, network, {p: table.predict(p) for p in policies})
        assert model.predict(policies[0]).doubt == ""
        assert "far above" in model.predict(Policy.uniform(network, 2, 2)).doubt

    @pytest.mark.parametrize("harm", [0.0, None])
    def test_nothing_to_learn_from(self, network, table, harm):
        policies = random_policies(network, table.bits, 8)
        model = calibrated(table, network, {p: 1 / table.predict(p) if harm is None else harm for p in policies})
        assert not model.fitted
        assert "predictions are those of the scores" in model.predict(policies[0]).doubt
        assert model.harm(policies[0]) == table.predict(policies[0])
        assert model.table() is table

    def test_unusable_input(self, network, table):
        policy = Policy.uniform(network, 4, 4)
        for measured, level, message in (
            ({}, 0.9, "measured is empty"),
            ({policy: float("nan")}, 0.9, "must be finite, got nan"),
            ({policy: 1.0}, 1.5, "level must be between 0 and 1, got 1.5"),
        ):
            with pytest.raises(InvalidInput, match=message):
                calibrated(table, network, measured, level=level)
        with pytest.raises(InvalidInput, match="several for the same sites"):
            calibrated([table, replace(table, sites=table.sites[::-1])], network, {policy: 1.0})


def test_policies_to_begin_with_are_spread_out(network: Sites, table: SensitivityTable) -> None:
    policies = random_policies(network, table.bits, 60)
    chosen = spread(table, network, policies, 5)
    assert len(set(chosen)) == 5
    logs = np.log([table.predict(p) for p in policies])
    taken = np.log([table.predict(p) for p in chosen])
    assert np.ptp(taken) > 0.8 * np.ptp(logs)
    more = spread(table, network, policies, 3, known=chosen)
    assert not set(more) & set(chosen)
    assert spread(table, network, policies[:2], 9) == spread(table, network, policies[:2], 2)
