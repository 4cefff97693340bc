from __future__ import annotations

from pathlib import Path

from bitwright.report import RunReport
from bitwright.values.recipe import Recipe

QUICK = ("--calibration-samples", "48", "--batch-size", "32")


def test_run_applies_the_recipe_that_debug_found(run, digits_flags, tmp_path: Path, capsys) -> None:
    target = ("--policy", "W2A2", "--repairs", "bias", "--target-drop", "0")
    assert run("debug", *digits_flags, *QUICK, *target, "-o", "found") == 0
    found = Recipe.load(tmp_path / "found" / "recipe.json")
    assert found.actions
    flags = ("--score-samples", 16, "--holdout-samples", 48, "--points", 3, "--bits", "2,4,8", "--runtime", "none")
    assert run("run", *digits_flags, *QUICK, *flags, "--recipe", "found/recipe.json", "-o", "out") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "Asked: what the recipe found/recipe.json says." in out
    report = RunReport.from_json((tmp_path / "out" / "report.json").read_text())
    assert dict(report.chosen.policy.bits) == dict(found.policy.bits)
    assert Recipe.load(tmp_path / "out" / "recipe.json") == found


def test_bad_recipes_are_one_line(run, digits_flags, tmp_path: Path, capsys) -> None:
    (tmp_path / "policy.json").write_text("{}")
    assert run("run", *digits_flags, "--recipe", "policy.json") == 2
    assert "it needs 'bitwright': 'recipe'" in capsys.readouterr().err
    assert run("run", *digits_flags, "--recipe", "missing.json") == 2
    assert "cannot read the recipe file 'missing.json'" in capsys.readouterr().err
