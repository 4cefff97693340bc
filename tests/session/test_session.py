from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

from bitwright.data import as_data
from bitwright.errors import InvalidInput, InvalidPolicy
from bitwright.graph import calibrate
from bitwright.quantizers.kind import QUANTIZERS, QuantizerKind
from bitwright.quantizers.uniform import WeightQuantizer
from bitwright.repair import apply_recipe
from bitwright.session import Samples, Session, Steps
from bitwright.settings import Settings
from bitwright.store import Memory, RunStore
from bitwright.tasks import Classification, evaluate
from bitwright.values import FLOAT, Policy
from bitwright.values.recipe import Action, Recipe

BIAS = Action("repair", {"name": "bias"})
PUT = Action("repair", {"name": "put", "quantizer": "mine"})


@pytest.fixture(scope="module")
def batches(digits_data):
    inputs, targets = digits_data[1]
    return [(inputs[i : i + 50], targets[i : i + 50]) for i in range(0, 200, 50)]


@pytest.fixture
def session(digits_graph, batches):
    return Session(digits_graph, Classification(), Samples.of(batches[:2], batches[2:]))


def forbid_measuring(monkeypatch):
    monkeypatch.setattr("bitwright.session.session.evaluate", None)
    monkeypatch.setattr("bitwright.session.session.reference", None)


def test_a_measurement_is_made_once_even_across_processes(digits_model, digits_data, tmp_path: Path, monkeypatch):
    (x, y), (tx, ty) = digits_data
    data, settings = as_data(((x[:100], y[:100]), (tx[:60], ty[:60]))), Settings(runtime="none")
    with RunStore(tmp_path) as store:
        session = Session.open(digits_model, data, settings, store, Steps())
        policy = Policy.uniform(session.sites, 4, 4)
        first = {on: session.measure(policy, on) for on in ("holdout", "evaluation")}
        assert first["evaluation"] == evaluate(session.graph, policy, [(tx[:60], ty[:60])])
        assert first["holdout"] != first["evaluation"]
        assert (session.measured, session.reused) == (2, 0)
    with RunStore(tmp_path) as store:
        again = Session.open(digits_model, data, settings, store, Steps())
        forbid_measuring(monkeypatch)
        renamed = again.measure(Policy(policy.bits, name="mine"), "evaluation")
        assert renamed.figures == first["evaluation"].figures
        assert renamed.policy_name == "mine"
        assert (again.measured, again.reused) == (0, 1)


@pytest.mark.parametrize("change", [{"ranges": "minmax"}, {"seed": 1}, {"calibration_samples": 30}, {"batch_size": 7}])
def test_what_differs_is_measured_anew(digits_model, digits_data, change: dict) -> None:
    (x, y), test = digits_data
    data, store = as_data(((x[:100], y[:100]), test)), Memory()
    one, other = (Session.open(digits_model, data, Settings(**c), store, Steps()) for c in ({}, change))
    policy = Policy.uniform(one.sites, 4, 4)
    one.measure(policy)
    other.measure(policy)
    assert (one.measured, other.measured, other.reused) == (1, 1, 0)


def test_an_unknown_site_is_refused(session) -> None:
    with pytest.raises(InvalidPolicy, match="names site 'conv9'"):
        session.measure(Policy({"conv9": 4}))


def test_a_recipe_gives_what_applying_it_to_a_fresh_graph_gives(session, digits_graph, batches) -> None:
    recipe = Recipe(Policy.uniform(session.sites, 3, 8)).then("repair", name="bias")
    fresh = apply_recipe(digits_graph.copy(), recipe, batches[:2])
    under = session.under(recipe)
    assert under.measure(on="evaluation") == evaluate(fresh, recipe.policy, batches[2:])
    stepwise, report = session.under(Recipe(recipe.target)).then(BIAS)
    assert report is not None
    assert stepwise.recipe == recipe
    with torch.no_grad():
        assert torch.equal(stepwise.graph(batches[0][0]), under.graph(batches[0][0]))


def test_the_users_graph_is_not_changed(session, digits_graph) -> None:
    before = {name: tensor.clone() for name, tensor in digits_graph.module.state_dict().items()}
    session.under(Recipe(Policy.uniform(session.sites, 3, 8)).then("repair", name="cle")).measure()
    assert digits_graph.policy == FLOAT
    assert digits_graph.repairs == []
    assert all(torch.equal(tensor, before[name]) for name, tensor in digits_graph.module.state_dict().items())


def test_sessions_share_what_the_float_model_put_out(session, monkeypatch) -> None:
    session.measure(Policy.uniform(session.sites, 4, 4))
    monkeypatch.setattr("bitwright.session.session.reference", None)
    session.under(Recipe(Policy.uniform(session.sites, 4, 4)).then("repair", name="bias")).measure()
    assert session.measured == 2


def test_a_recipe_without_actions_shares_the_plain_sessions_measurements(session) -> None:
    policy = Policy.uniform(session.sites, 4, 4)
    assert session.under(Recipe(policy)).measure() == session.measure(policy)
    assert (session.measured, session.reused) == (1, 1)


def test_what_was_fitted_is_kept_in_the_store_and_not_fitted_again(digits_graph, batches, monkeypatch) -> None:
    store, samples = Memory(), Samples.of(batches[:2], batches[2:])
    recipe = Recipe(Policy.uniform(digits_graph.sites, 3, 8)).then("repair", name="gptq")
    first = Session(digits_graph, Classification(), samples, store=store).under(recipe)
    verdict, fitted = first.measure(), first.fitted.fitted
    assert fitted is not None
    monkeypatch.setattr(
        importlib.import_module("bitwright.repair.apply"), "repair", None
    )  # no repair can be done any more
    again = Session(digits_graph, Classification(), samples, store=store).under(recipe)
    with torch.no_grad():
        assert torch.equal(again.graph(batches[0][0]), first.graph(batches[0][0]))
    assert again.measure() == verdict
    assert again.fitted.fitted.checksum == fitted.checksum


def test_a_recipe_that_brings_fitted_values_is_not_taken_for_one_that_was_fitted_here(digits_graph, batches) -> None:
    recipe = Recipe(Policy.uniform(digits_graph.sites, 2, 8)).then("repair", name="bias")
    elsewhere = Session(digits_graph, Classification(), Samples.of(batches[3:], batches[3:])).under(recipe).fitted
    session = Session(digits_graph, Classification(), Samples.of(batches[:2], batches[2:]))
    here, brought = session.under(recipe), session.under(elsewhere)
    assert here.measure() != brought.measure()
    assert session.under(elsewhere).measure() == brought.measure()
    assert session.under(elsewhere).fitted.fitted.checksum == elsewhere.fitted.checksum


def test_an_action_that_refuses_leaves_the_session_as_it_is(session) -> None:
    under = session.under(Recipe(Policy.uniform(session.sites, 4, 8)))
    before = under.measure()
    with pytest.raises(InvalidInput, match="limits can be set only at activations"):
        under.then(Action("limits", {"site": "conv1.weight", "low": 0, "high": 1}))
    assert under.measure() == before


def test_other_ranges_are_calibrated_anew(session, digits_graph, batches) -> None:
    policy = Policy.uniform(session.sites, 4, 4)
    graph = calibrate(digits_graph.copy(), batches[:2], ranges="minmax")
    assert session.under(Recipe(policy, "minmax")).measure() == evaluate(graph, policy, batches[:2])


def test_a_quantizer_that_was_edited_is_measured_anew(digits_graph, batches, request) -> None:
    """A repair that names a quantizer is known by what that computes, not by its name."""
    store = Memory()
    recipe = Recipe(Policy.uniform(digits_graph.sites, 3, 8), "mse", (PUT,))
    request.addfinalizer(lambda: QUANTIZERS.remove("mine"))

    def measured(ranges: str) -> Session:
        function = lambda site: WeightQuantizer(site, torch.zeros(site.shape), ranges)  # noqa: E731
        QUANTIZERS.register(QuantizerKind(name="mine", does="x.", function=function))
        plain = Session(digits_graph, Classification(), Samples.of(batches[:2], batches[2:]), store=store)
        under = plain.under(recipe)
        under.measure()
        return plain

    assert [(s.measured, s.reused) for s in map(measured, ("mse", "mse", "minmax"))] == [(1, 0), (0, 1), (1, 0)]


def test_what_another_process_measures_is_left_to_it(digits_graph, batches, tmp_path: Path) -> None:
    samples = Samples.of(batches[:2], batches[2:])
    mine, theirs = (Policy.uniform(digits_graph.sites, bits, 8) for bits in (3, 4))
    with RunStore(tmp_path) as store, RunStore(tmp_path) as other:
        session, beside = (Session(digits_graph, Classification(), samples, store=one) for one in (store, other))
        claimed: list[str] = []

        def late(key: str) -> bool:
            claimed.append(key)
            store._owners.claim(key)
            return claim(key)

        claim, other._claim = other._claim, late  # type: ignore[method-assign]
        beside.share(theirs)  # which the first process has claimed
        other._claim = claim  # type: ignore[method-assign]
        beside.share(theirs)
        assert (len(claimed), beside.measured) == (1, 0)
        beside.share(mine)
        assert beside.measured == 1
        session.measure(theirs)
        assert beside.measure(theirs) == session.measure(theirs)
        assert (session.measured, beside.measured) == (1, 1)
