from __future__ import annotations

import json
from pathlib import Path

import pytest

from bitwright.flow.training import Training
from bitwright.values.recipe import Recipe

SAME = ("--calibration-samples", "48", "--batch-size", "32")
QUICK = (*SAME, "--holdout-samples", "40")


def test_a_policy_is_trained_and_its_recipe_is_exported_as_simulated(run, digits_flags, tmp_path: Path, capsys):
    words = ("qat", *digits_flags, *QUICK, "--policy", "W2A3", "--first", "none", "--epochs", "5", "-o", "out")
    assert run(*words) == 0
    out = capsys.readouterr().out
    done = Training.from_dict(json.loads((tmp_path / "out" / "training.json").read_text()))
    assert done.after.distance.value < done.before.distance.value == done.plain.distance.value
    assert len(done.course.epochs) == 5
    assert done.course.samples == 120 - 40  # all but those that are held out
    for word in ("W2A3, trained *", "Oscillating", "start", "recipe.json"):
        assert word in out
    assert not (tmp_path / "out" / "training.checkpoint").exists()
    # The same command finds everything in the store.
    assert run(*words) == 0
    assert capsys.readouterr().out == out
    recipe = tmp_path / "out" / "recipe.json"
    assert [action.kind for action in Recipe.load(recipe).actions] == ["training"]
    assert run("evaluate", *digits_flags, *SAME, "--recipe", recipe, "--json", "-o", "out") == 0
    verdict = json.loads(capsys.readouterr().out)
    assert verdict["figures"]["accuracy"] == done.after.to_dict()["figures"]["accuracy"]
    assert run("export", *digits_flags, *SAME, "--recipe", recipe, "-o", "out") == 0
    samples = done.after.samples
    assert f"on {samples} of {samples} inputs with its graph" in " ".join(capsys.readouterr().out.split())
    next((tmp_path / "out").glob("recipe-*.npz")).unlink()
    assert run("evaluate", *digits_flags, *SAME, "--recipe", recipe, "-o", "elsewhere") == 2
    assert "this recipe was trained, and what was learned is not beside it" in capsys.readouterr().err


def test_training_starts_from_repairs(run, digits_flags, tmp_path: Path, capsys):
    words = ("qat", *digits_flags, *QUICK, "--policy", "W2A4", "--epochs", "1", "-o", "out")
    assert run(*words) == 0
    assert "W2A4, start" in capsys.readouterr().out
    done = Training.from_dict(json.loads((tmp_path / "out" / "training.json").read_text()))
    assert [str(action).split(" (")[0] for action in done.recipe.actions] == ["repair gptq", "training"]
    assert done.before.distance.value < done.plain.distance.value


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--learning-rate", "0"), "learning_rate must be above 0 and at most 1 grid step, got 0.0"),
        (("--first", "adaruond"), "did you mean 'adaround'"),
        (("--augment", "nothing"), "augment"),
        (("--policy", "W4A4", "--recipe", "r.json"), "a recipe has its own policy"),
    ],
)
def test_bad_settings_are_one_line(run, digits_flags, words, message, capsys):
    assert run("qat", *digits_flags, *words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
