from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from bitwright.data import DataSets, load_data
from bitwright.errors import InvalidInput, PolicyMismatch
from bitwright.flow import run
from bitwright.graph import capture
from bitwright.report import RunReport
from bitwright.settings import Settings
from bitwright.values import Policy
from bitwright.values.recipe import Recipe

QUICK = Settings(
    calibration_samples=64,
    score_samples=32,
    holdout_samples=64,
    points=6,
    rounds=1,
    bits=(2, 3, 4, 6, 8),
    runtime="none",
    target_drop=2.0,
    repairs=("bias",),
)


@pytest.fixture(scope="module")
def data() -> DataSets:
    return load_data("digits?limit=160")


@pytest.fixture(scope="module")
def plain(digits_model, data, tmp_path_factory) -> RunReport:
    return run(digits_model, data, tmp_path_factory.mktemp("plain"), QUICK.model_copy(update={"repairs": ()}))


@pytest.fixture(scope="module")
def repaired(digits_model, data, tmp_path_factory) -> tuple[Path, RunReport]:
    folder = tmp_path_factory.mktemp("repaired")
    return folder, run(digits_model, data, folder, QUICK)


def test_repairs_make_it_no_dearer_and_are_said(plain, repaired) -> None:
    folder, report = repaired
    assert report.chosen.costs["bops"] <= plain.chosen.costs["bops"]
    if not (folder / "recipe.json").exists():
        assert report.chosen.policy == plain.chosen.policy
        assert "Even with repairs, no cheaper policy holds the target" in report.notes[0]
        return
    recipe = Recipe.load(folder / "recipe.json")
    assert recipe.policy.bits == report.chosen.policy.bits
    assert [str(action) for action in recipe.actions] == ["repair bias"]
    assert any("have these repairs: repair bias" in note for note in report.notes)


def test_a_recipe_is_applied_again_with_the_same_figures(digits_model, data, plain, tmp_path) -> None:
    policy = plain.chosen.policy
    recipe = Recipe(policy, "mse").then("repair", name="bias").then("bits", site="linear.weight", bits=8)
    settings = QUICK.model_copy(update={"target_drop": None})
    first = run(digits_model, data, tmp_path / "first", settings, recipe=recipe)
    assert dict(first.chosen.policy.bits) == dict(recipe.policy.bits)
    assert "Taken from the recipe: repair bias; linear.weight at 8 bits" in first.notes[0]
    kept = Recipe.load(tmp_path / "first" / "recipe.json")
    assert kept == recipe
    second = run(digits_model, data, tmp_path / "second", settings, recipe=kept)
    assert second.chosen.verdict == first.chosen.verdict
    bare = run(digits_model, data, tmp_path / "bare", settings, recipe=Recipe(recipe.policy, "mse"))
    assert bare.chosen.policy.bits == first.chosen.policy.bits
    assert bare.chosen.verdict.kl != first.chosen.verdict.kl  # the repair is in the figures


def test_a_repaired_run_goes_on_from_the_store(digits_model, data, repaired, monkeypatch) -> None:
    folder, report = repaired
    monkeypatch.setattr("bitwright.session.session.evaluate", None)
    assert run(digits_model, data, folder, QUICK).chosen == report.chosen


def test_bad_input_is_one_line(digits_model, data, tmp_path) -> None:
    settings = QUICK.model_copy(update={"target_drop": None, "budget": ("size=30%",)})
    with pytest.raises(InvalidInput, match="a recipe has its own policy.*got size=30%"):
        run(digits_model, data, tmp_path, settings, recipe=Recipe(Policy({"linear.weight": 4})))
    with pytest.raises(PolicyMismatch, match="made for graph other"):
        run(digits_model, data, tmp_path, QUICK, recipe=Recipe(Policy({"linear.weight": 4}, "other")))


def test_what_was_fitted_is_written_and_not_fitted_again(digits_model, data, tmp_path, monkeypatch) -> None:
    graph = capture(digits_model, next(iter(data.calibration.batches(2)))[0])
    recipe = Recipe(Policy.uniform(graph.sites, 4, 8)).then("repair", name="adaround", iterations=5)
    settings = QUICK.model_copy(update={"target_drop": None})
    first = run(digits_model, data, tmp_path / "first", settings, recipe=recipe)
    kept = Recipe.load(tmp_path / "first" / "recipe.json")
    assert kept.fitted is not None
    monkeypatch.setattr(
        importlib.import_module("bitwright.repair.apply"), "repair", None
    )  # no repair can be done any more
    elsewhere = run(digits_model, data, tmp_path / "second", settings, recipe=kept)
    assert elsewhere.chosen.verdict == first.chosen.verdict
    assert Recipe.load(tmp_path / "second" / "recipe.json").fitted.checksum == kept.fitted.checksum
    # In the folder where it was fitted, the store has it.
    again = run(digits_model, data, tmp_path / "first", settings, recipe=recipe)
    assert again.chosen == first.chosen
    assert Recipe.load(tmp_path / "first" / "recipe.json").fitted.checksum == kept.fitted.checksum
