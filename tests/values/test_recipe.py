from __future__ import annotations

import json

import pytest

from bitwright.errors import InvalidInput, InvalidPolicy
from bitwright.values import Policy
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


def test_fitting_can_be_set_aside_and_the_target_changed():
    recipe = _recipe().then("repair", name="bias").then("repair", name="adaround", iterations=10)
    bare, fitting = recipe.without_fitting()
    assert bare == _recipe()
    assert [str(action) for action in fitting] == ["repair bias", "repair adaround (iterations=10)"]
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
    with pytest.raises(InvalidInput, match="it needs 'bitwright': 'recipe'"):
        Recipe.from_json(TARGET.to_json())
    data = json.loads(_recipe().to_json())
    with pytest.raises(InvalidInput, match="has recipe version 2, this Bitwright reads version 1"):
        Recipe.from_dict({**data, "version": 2})
    data["target"]["bits"]["a"] = 1
    with pytest.raises(InvalidPolicy, match="between 2 and 16, got 1 for site 'a'"):
        Recipe.from_dict(data)
