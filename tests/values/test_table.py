from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy.integrate import quad

from bitwright.errors import InvalidInput, PolicyMismatch
from bitwright.values import FLOAT, MarginModel, Policy, SensitivityTable
from bitwright.values.table import ROSE

NAMES, BITS = ("a", "b", "c"), (2, 4, 8)


def table(**changes):
    harm = np.array([[9.0, 3.0, 1.0], [8.0, 4.0, 0.5], [1.0, 0.2, 0.1]])
    return SensitivityTable(**{"method": "fit", "unit": "u", "sites": NAMES, "bits": BITS, "harm": harm, **changes})


def margin_table():
    generator = np.random.default_rng(0)
    shares = generator.exponential(1, (50, 3)).astype(np.float32)
    model = MarginModel(generator.uniform(0.1, 3, 50), generator.uniform(0, 1, (3, 3)), shares)
    return table(method="margin-fit", margin=model), model


def phi(x):
    return 0.5 * math.erfc(-x / math.sqrt(2))


def test_harms_add_up():
    found = table()
    assert found.predict(Policy({"a": 2, "c": 8})) == pytest.approx(9.1)
    assert found.predict(FLOAT) == 0
    assert found.at("b", 4) == 4
    assert found.linearized(Policy({"a": 2})) is found


def test_variances_add_up_in_a_margin_model():
    found, model = margin_table()
    variance = model.shares[:, 0] * model.variances[0, 2] + model.shares[:, 1] * model.variances[1, 0]
    expected = np.mean([phi(-m / math.sqrt(v)) for m, v in zip(model.margins, variance, strict=True)])
    assert found.predict(Policy({"a": 8, "b": 2})) == pytest.approx(expected, rel=1e-6)
    assert found.predict(FLOAT) == 0


def test_no_noise_flips_nothing_but_ties():
    model = MarginModel(np.array([1.0, 0.0]), np.zeros((1, 1)), np.ones((2, 1)))
    assert model.flip_chances(np.zeros(2)).tolist() == [0.0, 0.5]


@pytest.mark.parametrize("margin", [0.0, 0.3, 2.0, 10.0, 30.0])
@pytest.mark.parametrize("variance", [1e-4, 0.3, 5.0, 200.0, 1e4])
def test_the_distance_is_that_of_two_classes(margin, variance):
    """By numeric integration of the divergence of two classes over the normal distribution."""
    model = MarginModel(np.array([margin]), np.ones((1, 1)), np.ones((1, 1)))

    def divergence(z):
        after = np.logaddexp(0, -margin - math.sqrt(variance) * z)
        return math.exp(-z * z / 2) / math.sqrt(2 * math.pi) * (after - np.logaddexp(0, -margin))

    expected = quad(divergence, -12, 12, points=[max(-11.9, -margin / math.sqrt(variance))], limit=500)[0]
    assert float(model.distance(np.array([variance]))) == pytest.approx(expected, rel=0.03)


def test_a_small_distance_grows_with_the_variance_where_nothing_flips():
    margins = np.array([0.5, 4.0, 12.0])
    model = MarginModel(margins, np.ones((1, 1)), np.ones((3, 1)))
    chance = 1 / (1 + np.exp(-margins))
    for variance in (1e-16, 1e-10, 1e-5):
        each = np.full((3, 2), variance)
        expected = [float((chance * (1 - chance)).mean() * variance / 2)] * 2
        assert model.distance(each) == pytest.approx(expected, rel=1e-3)
        assert model.flip_rate(each[:, 0]) < 1e-30


def test_slopes_are_derivatives():
    _, model = margin_table()
    variance = np.linspace(0.05, 2, 50)
    step = 1e-6
    differences = (model.flip_chances(variance + step) - model.flip_chances(variance - step)) / (2 * step) / 50
    np.testing.assert_allclose(model.flip_rate_slopes(variance), differences, rtol=1e-5)


def test_a_linearized_table_is_right_to_first_order():
    found, model = margin_table()
    base = Policy({"a": 4, "b": 4, "c": 4})
    linear = found.linearized(base)
    assert linear.margin is None
    small = 1e-5
    for row, site in enumerate(NAMES):
        moved = model.variances.copy()
        moved[row, 1] *= 1 + small
        change = model.flip_rate(model.shares @ moved[:, 1]) - found.predict(base)
        assert change == pytest.approx(linear.at(site, 4) * small, rel=1e-3)


def test_ranking_is_worst_first():
    assert table().ranking(8) == [("a", 1.0), ("b", 0.5), ("c", 0.1)]
    assert [site for site, _ in table().ranking(4)] == ["b", "a", "c"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t.at("a", 3), r"the table has bits \(2, 4, 8\), not 3"),
        (lambda t: t.predict(Policy({"a": 16})), "not 16"),
        (lambda t: t.at("d", 4), "the table has no site 'd'"),
        (lambda t: t.predict(Policy({"d": 4})), "the table has no site 'd'"),
    ],
)
def test_what_the_table_does_not_have(call, message):
    with pytest.raises(InvalidInput, match=message):
        call(table())


def test_a_policy_of_another_graph():
    found = table(graph_hash="cafe")
    found.predict(Policy({"a": 2}))
    found.predict(Policy({"a": 2}, "cafe"))
    with pytest.raises(PolicyMismatch, match="made for graph beef, the table for cafe"):
        found.predict(Policy({"a": 2}, "beef"))


def test_a_table_must_be_complete_and_finite():
    with pytest.raises(InvalidInput, match=r"harm must have shape \(sites, bits\) = \(3, 3\), got \(2, 3\)"):
        table(harm=np.zeros((2, 3)))
    harm = np.zeros((3, 3))
    harm[1, 2] = np.nan
    with pytest.raises(InvalidInput, match="the harm of site 'b' is not finite"):
        table(harm=harm)


def test_harms_that_rise_with_bits_are_raised_to_those_of_more_bits_and_doubted():
    harm = np.array([[1e-18, 8e-3, 9e-4], [8.0, 4.0, 0.5], [0.98, 1.0, 0.1]])
    found = table(harm=harm, standard_error=harm / 10).checked()
    np.testing.assert_array_equal(found.harm, [[8e-3, 8e-3, 9e-4], [8.0, 4.0, 0.5], [1.0, 1.0, 0.1]])
    assert found.doubts == {"a": ROSE}  # what c is raised by is within its noise
    (note,) = found.notes
    assert note == f"1 of 3 sites (33.3%) are not trusted: {ROSE} (1). Measure what is chosen by these scores."
    again = SensitivityTable.from_json(found.to_json())
    assert again.doubts == found.doubts


def test_a_table_whose_harms_fall_is_left_as_it_is():
    found = table()
    checked = found.checked()
    np.testing.assert_array_equal(checked.harm, found.harm)
    assert (checked.doubts, checked.notes) == ({}, ())


def test_other_reasons_to_doubt_a_site_are_kept():
    found = table(harm=np.array([[1.0, 2.0, 3.0]] * 3), doubts={"b": "why"}).checked()
    assert found.doubts == {"a": ROSE, "b": f"why; {ROSE}", "c": ROSE}
    assert f"3 of 3 sites (100.0%) are not trusted: {ROSE} (3), why (1)." in found.notes[0]


def test_no_prediction_of_a_checked_margin_model_rises_with_bits():
    found, model = margin_table()
    harm, error = model.alone()
    assert (harm[:, :-1] < harm[:, 1:]).any()
    checked = table(margin=model, harm=harm, standard_error=error).checked()
    assert (checked.margin.variances >= model.variances).all()
    for site in NAMES:
        others = {name: 4 for name in NAMES if name != site}
        for harms in (
            [checked.predict(Policy({site: bits})) for bits in BITS],
            [checked.predict(Policy({site: bits, **others})) for bits in BITS],
            checked.linearized(Policy({site: 2, **others})).harm[checked.row(site)].tolist(),
        ):
            assert harms == sorted(harms, reverse=True)
        alone = checked.margin.flip_chances(checked.margin.variance([checked.row(site)], [0]))
        assert checked.at(site, 2) == pytest.approx(alone.mean())
        assert checked.standard_error[checked.row(site), 0] == pytest.approx(alone.std(ddof=1) / len(alone) ** 0.5)


def test_there_and_back_through_json():
    found, model = margin_table()
    found = SensitivityTable(
        **{
            **found.__dict__,
            "standard_error": np.full((3, 3), 0.5),
            "parts": {"trace": np.arange(3.0)},
            "notes": ("n",),
        }
    )
    again = SensitivityTable.from_json(found.to_json())
    np.testing.assert_array_equal(again.harm, found.harm)
    np.testing.assert_array_equal(again.standard_error, found.standard_error)
    np.testing.assert_array_equal(again.parts["trace"], np.arange(3.0))
    assert (again.sites, again.bits, again.notes) == (found.sites, found.bits, found.notes)
    policy = Policy({"a": 4, "b": 2, "c": 8})
    assert again.predict(policy) == pytest.approx(found.predict(policy), rel=1e-6)
    assert json.loads(table().to_json())["margin"] is None
    assert SensitivityTable.from_json(table().to_json()).predict(policy) == table().predict(policy)
