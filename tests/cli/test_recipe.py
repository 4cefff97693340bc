from __future__ import annotations

import json
from pathlib import Path

from bitwright.report import RunReport
from bitwright.values.recipe import Recipe

QUICK = ("--calibration-samples", "48", "--batch-size", "32")


def test_run_applies_the_recipe_that_debug_found(run, digits_flags, tmp_path: Path, capsys) -> None:
    target = ("--policy", "W2A2", "--repairs", "bias", "--target-drop", "0")
    assert run("debug", *digits_flags, *QUICK, *target, "-o", "found") == 3
    found = Recipe.load(tmp_path / "found" / "recipe.json")
    assert found.actions
    flags = ("--score-samples", 16, "--holdout-samples", 48, "--points", 3, "--bits", "2,4,8", "--runtime", "none")
    assert run("run", *digits_flags, *QUICK, *flags, "--recipe", "found/recipe.json", "-o", "out") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "Asked: apply the recipe found/recipe.json." in out
    report = RunReport.from_json((tmp_path / "out" / "report.json").read_text())
    assert dict(report.chosen.policy.bits) == dict(found.policy.bits)
    assert Recipe.load(tmp_path / "out" / "recipe.json") == found


def test_bad_recipes_are_one_line(run, digits_flags, tmp_path: Path, capsys) -> None:
    (tmp_path / "policy.json").write_text("{}")
    assert run("run", *digits_flags, "--recipe", "policy.json") == 2
    assert "the recipe file 'policy.json': target is missing" in capsys.readouterr().err
    assert run("run", *digits_flags, "--recipe", "missing.json") == 2
    assert "cannot read the recipe file 'missing.json'" in capsys.readouterr().err


def test_what_was_fitted_is_applied_again_or_fitted_again_and_said(run, digits_flags, tmp_path: Path, capsys) -> None:
    fast = ("--set", "adaround.iterations=5")
    assert run("repair", "adaround", *digits_flags, *QUICK, *fast, "--policy", "W3A8", "-o", "out") == 0
    path = tmp_path / "out" / "recipe.json"
    fitted = Recipe.load(path).fitted
    beside = path.with_name(f"recipe-{fitted.checksum[:8]}.npz")
    assert f"{beside.name}   what was fitted for it" in capsys.readouterr().out
    show = ("evaluate", *digits_flags, *QUICK, "--recipe", path, "--json", "-o")
    verdicts = []
    content = beside.read_bytes()
    missing = f"note: the recipe file '{path}' names '{beside.name}', which is not beside it: applying it fits"
    for folder, note in (("a", ""), ("b", missing)):
        assert run(*show, folder) == 0
        said = capsys.readouterr()
        assert note in said.err
        assert ("note:" in said.err) == bool(note)
        verdicts.append(json.loads(said.out))
        beside.unlink(missing_ok=True)
    assert verdicts[0] == verdicts[1]  # the same data, on the same machine
    beside.write_bytes(content[:-1])
    assert run(*show, "c") == 2
    assert f"error: '{beside}' is damaged" in capsys.readouterr().err
