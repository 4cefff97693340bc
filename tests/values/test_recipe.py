from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from bitwright.errors import InvalidInput, InvalidPolicy, StoreError
from bitwright.files import write_atomically
from bitwright.values import FLOAT, Policy
from bitwright.values.fitted import Fitted
from bitwright.values.recipe import Action, Recipe

TARGET = Policy({"a": 4, "a.weight": 4, "b": 8}, "0123", "W4A8")


def _recipe() -> Recipe:
    recipe = (
        Recipe(TARGET, "minmax", name="mended")
        .then("repair", name="cle")
        .then("repair", name="granularity", granularity="channel")
    )
    recipe = recipe.then("ranges", site="a", method="percentile", percentile=99.9)
    return recipe.then("limits", site="b", low=-0.5, high=2.0).then("bits", site="a.weight", bits=8)


def test_to_json_and_back():
    recipe = _recipe()
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert Recipe.from_json(Recipe(TARGET).to_json()) == Recipe(TARGET)
    assert hash(Recipe.from_json(recipe.to_json())) == hash(recipe)


def test_a_file_that_people_can_read(tmp_path):
    recipe = _recipe()
    recipe.save(tmp_path / "recipe.json")
    assert Recipe.load(tmp_path / "recipe.json") == recipe
    lines = (tmp_path / "recipe.json").read_text().splitlines()
    assert '    {"action": "repair", "name": "cle"},' in lines
    assert '      "a.weight": 4,' in lines


def test_the_policy_is_the_target_with_the_exceptions():
    recipe = _recipe().then("bits", site="b", bits=None)
    assert dict(recipe.policy.bits) == {"a": 4, "a.weight": 8}
    assert recipe.policy.graph_hash == "0123"
    assert dict(Recipe(TARGET).policy.bits) == dict(TARGET.bits)
    again = _recipe().then("bits", site="a.weight", bits=16).then("limits", site="b", low=-1.0, high=1.0)
    assert [str(a) for a in again.actions][3:] == ["a.weight at 16 bits", "range of b: -1 to 1"]
    assert recipe.repaired("cle")
    assert recipe.then("ranges", kind="activation", method="mse").actions[-1].options["kind"] == "activation"
    assert not recipe.repaired("adaround")


def test_repairs_can_be_left_out_and_the_target_changed():
    recipe = _recipe().then("repair", name="bias").then("repair", name="adaround", iterations=10)
    assert recipe.without(["bias", "adaround"]) == _recipe()
    assert recipe.without(["gptq"]) is recipe
    aimed = recipe.aimed_at(Policy({"a": 8}, "0123", "A8"))
    assert dict(aimed.policy.bits) == {"a": 8, "a.weight": 8}
    assert aimed.actions == recipe.actions


def test_actions_in_words():
    assert [str(action) for action in _recipe().actions] == [
        "repair cle",
        "repair granularity (granularity=channel)",
        "ranges of a by percentile 99.9",
        "range of b: -0.5 to 2",
        "a.weight at 8 bits",
    ]
    assert str(Action("repair", {"name": "adaround", "iterations": 100})) == "repair adaround (iterations=100)"
    assert str(Action("ranges", {"method": "mse", "kind": "activation"})) == "ranges of every activation by mse"


def test_bad_input_is_one_line(tmp_path):
    with pytest.raises(InvalidInput, match="must be one of repair, .*got 'repiar'; did you mean 'repair'"):
        Action("repiar")
    with pytest.raises(InvalidInput, match="the recipe file .*none.json': No such file"):
        Recipe.load(tmp_path / "none.json")
    with pytest.raises(InvalidInput, match="recipe is not valid JSON"):
        Recipe.from_json("{")
    with pytest.raises(InvalidInput, match="the recipe: bitwright must be 'recipe', got 'policy'"):
        Recipe.from_json(TARGET.to_json())
    data = json.loads(_recipe().to_json())
    with pytest.raises(InvalidInput, match="recipe: version must be 1, got 2"):
        Recipe.from_dict({**data, "version": 2})
    data["target"]["bits"]["a"] = 1
    with pytest.raises(InvalidPolicy, match="between 2 and 16, got 1 for site 'a'"):
        Recipe.from_dict(data)


def _with_fitted(value: float = 0.5) -> Recipe:
    recipe = _recipe()
    return recipe.with_fitted(Fitted("0123", recipe.digest, {}, {"scale/4/a": np.asarray(np.float32(value))}))


def test_fitted_values_are_saved_beside_and_loaded_again(tmp_path):
    recipe = _with_fitted()
    beside = recipe.save(tmp_path / "recipe.json")
    assert beside == tmp_path / f"recipe-{recipe.fitted.checksum[:8]}.npz"
    again = Recipe.load(tmp_path / "recipe.json")
    assert again == recipe == _recipe()  # what was fitted makes no other recipe of it
    assert again.fitted.checksum == recipe.fitted.checksum
    assert json.loads((tmp_path / "recipe.json").read_text())["fitted"]["file"] == beside.name
    # Another save takes the place of both files, and of no others.
    (tmp_path / "recipe-mine.npz").write_bytes(b"")
    newer = _with_fitted(0.25).save(tmp_path / "recipe.json")
    assert {p.name for p in tmp_path.iterdir()} == {"recipe.json", newer.name, "recipe-mine.npz"}
    assert _recipe().save(tmp_path / "recipe.json") is None
    assert {p.name for p in tmp_path.iterdir()} == {"recipe.json", "recipe-mine.npz"}
    assert Recipe.load(tmp_path / "recipe.json").fitted is None


def test_fitted_values_go_when_the_recipe_is_changed():
    recipe = _with_fitted()
    assert replace(recipe, name="other").fitted is recipe.fitted
    assert recipe.with_fitted(None).fitted is None
    for changed in (
        recipe.then("repair", name="bias"),
        recipe.aimed_at(Policy({"a": 8}, "0123")),
        replace(recipe, ranges="mse"),
        replace(recipe, actions=()),
    ):
        assert changed.fitted is None
        assert changed.with_fitted(recipe.fitted).fitted is None


def test_a_missing_file_and_an_edited_recipe_are_announced(tmp_path):
    path = tmp_path / "recipe.json"
    beside = _with_fitted().save(path)
    path.write_text(path.read_text().replace('"low": -0.5', '"low": -0.75'))
    with pytest.warns(UserWarning, match="was edited after it was fitted: applying it fits its repairs again"):
        edited = Recipe.load(path)
    assert edited.fitted is None
    assert edited.actions[3].options["low"] == -0.75
    beside.unlink()
    with pytest.warns(UserWarning, match=f"names '{beside.name}', which is not beside it: applying it fits"):
        assert Recipe.load(path).fitted is None


def test_damaged_fitted_values_are_one_line(tmp_path):
    path = tmp_path / "recipe.json"
    beside = _with_fitted().save(path)
    content = bytearray(beside.read_bytes())
    content[len(content) // 2] ^= 1
    beside.write_bytes(content)
    with pytest.raises(InvalidInput, match="is damaged, or not the file that .* was saved with.*delete it"):
        Recipe.load(path)
    data = json.loads(path.read_text())
    for entry in ({"file": "../x.npz", "sha256": "0"}, {"file": "x.npz"}, "x.npz"):
        path.write_text(json.dumps({**data, "fitted": entry}))
        with pytest.raises(InvalidInput, match="must hold 'file', the name of a file beside it, and its 'sha256'"):
            Recipe.load(path)


def test_a_save_that_fails_leaves_the_pair_of_before(tmp_path, monkeypatch):
    path = tmp_path / "recipe.json"
    before = _with_fitted()
    before.save(path)

    def fail(target, data):
        if target == path:
            raise StoreError("the disk is full")
        return write_atomically(target, data)

    monkeypatch.setattr("bitwright.values.recipe.write_atomically", fail)
    with pytest.raises(StoreError):
        _with_fitted(0.25).save(path)
    assert Recipe.load(path).fitted.checksum == before.fitted.checksum


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("limits", {"site": "a", "low": 1.0, "high": 1.0}, "limits need low < high, got 1.0 and 1.0 for site 'a'"),
        ("limits", {"site": "a", "high": 1.0}, "the recipe's action 'limits': low is missing"),
        ("limits", {"site": "a", "low": 0.0, "high": float("inf")}, "high must be less than inf, got inf"),
        ("limits", {"site": {}, "low": 0.0, "high": 1.0}, "site must be a valid string, got {}"),
        ("ranges", {"method": "mes"}, "method must be 'minmax', 'percentile' or 'mse', got 'mes'"),
        ("ranges", {"method": "mse", "percentile": 101}, "percentile must be less than or equal to 100, got 101"),
        ("ranges", {"method": "mse", "persentile": 99}, "persentile is not known here"),
        ("bits", {"site": "a", "bits": 17}, "bits must be less than or equal to 16, got 17"),
        ("bits", {"site": "a"}, "bits is missing"),
        ("bits", 5, "options must map names to values, got 5"),
        ({}, {}, "a recipe's action must be one of repair,"),
    ],
)
def test_options_of_an_action_are_checked_where_it_is_made(kind, options, message):
    with pytest.raises(InvalidInput) as caught:
        Action(kind, options)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("given", "message"), [((5,), "target must be a Policy, got 5; "), ((FLOAT, "mes"), "ranges must be")]
)
def test_a_recipe_is_made_of_a_policy_and_known_ranges(given, message):
    with pytest.raises(InvalidInput, match=message):
        Recipe(*given)
