from __future__ import annotations

from pathlib import Path

import pytest

from bitwright.cli.debug import applying
from bitwright.cli.guard import EXIT_OUTCOMES
from bitwright.cli.job import Job
from bitwright.values.findings import Findings
from bitwright.values.recipe import Recipe

QUICK = ("--calibration-samples", "64", "--batch-size", "32")


def test_debug_leads_from_a_bad_network_to_a_recipe(run, digits_flags, tmp_path: Path, capsys) -> None:
    words = ("debug", *digits_flags, *QUICK, "--policy", "W2A3", "--repairs", "granularity", "--target-drop", "1")
    code = run(*words, "-o", "out")
    out = capsys.readouterr().out
    findings = Findings.from_json((tmp_path / "out" / "findings.json").read_text())
    assert Recipe.load(tmp_path / "out" / "recipe.json") == findings.recipe
    assert findings.recipe.target.name == "W2A3"
    assert findings.target_drop == 1
    assert code == EXIT_OUTCOMES[findings.outcome]
    for step in findings.steps:
        assert f"{step.number}. {step.title}" in " ".join(out.split())
    assert "computes what the model computes" in " ".join(out.split())
    assert findings.recommendation.split(".")[0] in " ".join(out.split())
    page = (tmp_path / "out" / "debug.html").read_text()
    assert 'id="step-2"' in page


def test_debug_goes_on_from_the_store_and_from_a_recipe(run, digits_flags, tmp_path: Path, capsys, monkeypatch) -> None:
    words = ("debug", *digits_flags, *QUICK, "--policy", "W2A8", "--repairs", "none", "--target-drop", "0", "-o", "out")
    code = run(*words)
    assert code in (3, 4)
    first = (tmp_path / "out" / "findings.json").read_text()
    monkeypatch.setattr("bitwright.session.session.evaluate", None)  # nothing may be measured again
    assert run(*words) == code
    assert (tmp_path / "out" / "findings.json").read_text() == first
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert run(*words, "--start-at", 8, "--recipe", "out/recipe.json") == code
    findings = Findings.from_json((tmp_path / "out" / "findings.json").read_text())
    assert [step.number for step in findings.steps] == [8]
    assert findings.recipe == Findings.from_json(first).recipe


@pytest.mark.parametrize(
    ("policy", "drop", "code", "words"),
    [
        ("W8A8", 20, 0, "The target of 20 points holds: the whole interval is within it."),
        ("W4A4", 0.5, 3, "Whether the target of 0.5 points holds is undecided"),
        ("W2A2", 0.5, 4, "The target of 0.5 points does not hold: the whole interval is beyond it."),
    ],
)
def test_the_exit_code_says_whether_the_target_holds(run, digits_flags, capsys, policy, drop, code, words) -> None:
    flags = ("--policy", policy, "--repairs", "none", "--target-drop", drop, "--start-at", 8)
    assert run("debug", *digits_flags, *QUICK, *flags) == code
    assert words in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(("drop", "code"), [(100, 0), (0, 4)])
def test_run_tells_by_its_exit_code_whether_the_target_holds(run, digits_flags, tmp_path, capsys, drop, code) -> None:
    flags = ("--score-samples", 16, "--holdout-samples", 48, "--points", 3, "--bits", "2", "--runtime", "none")
    assert run("run", *digits_flags, *QUICK, *flags, "--target-drop", drop, "--repairs", "none", "-o", "out") == code
    said = "holds" if code == 0 else "does not hold"
    assert f"The target of {drop} points {said}: the whole interval is" in " ".join(capsys.readouterr().out.split())
    assert f"The target of {drop} points {said}" in (tmp_path / "out" / "report.html").read_text()


def test_bad_input_is_one_line(run, digits_flags, capsys) -> None:
    assert run("debug", *digits_flags, *QUICK, "--start-at", 9) == 2
    assert "start_at must be between 1 and 8, got 9" in capsys.readouterr().err
    assert run("debug", *digits_flags, *QUICK, "--repairs", "cel") == 2
    assert "did you mean 'cle'" in capsys.readouterr().err
    assert run("debug", *digits_flags, *QUICK, "--recipe", "none.json") == 2
    assert "cannot read the recipe file 'none.json'" in capsys.readouterr().err


def test_the_command_that_exports_names_the_outputs_too(tmp_path):
    job = Job(model="nets:build", data="nets:data", returns=("logits", "hidden.0"), output=tmp_path)
    assert "--returns logits,hidden.0 --output" in applying(job, tmp_path / "recipe.json")
