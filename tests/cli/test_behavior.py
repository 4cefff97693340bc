from __future__ import annotations

import json
from pathlib import Path

import torch

import bitwright as bw
from bitwright.behavior import SHIFTS
from bitwright.values.behavior import Behavior, Behaviors

QUICK = ("--calibration-samples", "48", "--batch-size", "32")


def test_a_policy_is_studied_under_shifts(run, digits_flags, tmp_path: Path, capsys):
    words = ("behavior", *digits_flags, *QUICK, "--policy", "W2A3", "--shifts", "contrast,snow", "--severities", "1,5")
    assert run(*words, "-o", "out") == 0
    out = capsys.readouterr().out
    found = Behavior.from_dict(json.loads((tmp_path / "out" / "behavior.json").read_text()))
    assert [(one.shift, one.severity) for one in found.shifted] == [
        (n, s) for n in ("contrast", "snow") for s in (1, 5)
    ]
    for word in ("As they are: ", "contrast", "snow", "AUROC", "Guard: where the "):
        assert word in out
    table, _, _ = out.partition("The two decide")
    assert max(map(len, table.splitlines())) <= 80
    page = (tmp_path / "out" / "behavior.html").read_text()
    assert "contrast 5" in page
    assert page.count("data:image/png;base64,") == len(found.examples) > 0
    assert run(*words, "-o", "out") == 0  # from the store
    assert capsys.readouterr().out == out


def test_shifts_are_listed_and_unknown_ones_refused(run, digits_flags, capsys):
    assert run("behavior", "--list") == 0
    out = capsys.readouterr().out
    assert all(f"{name} " in out for name in SHIFTS)
    assert run("behavior", *digits_flags, "--policy", "W4A4", "--shifts", "rain") == 2
    assert "shift must be one of" in capsys.readouterr().err
    assert run("behavior", *digits_flags, "--policy", "W4A4", "--severities", "6") == 2
    assert "--severities must be some of 1,2,3,4,5, got '6'" in capsys.readouterr().err


def test_an_exported_file_is_studied_beside_other_data_and_gets_its_guard(run, digits_flags, tmp_path: Path, capsys):
    assert run("export", *digits_flags, *QUICK, "--policy", "W2A3", "-o", "out") == 0
    words = ("behavior", *digits_flags, *QUICK, "--shifts", "snow", "--severities", "3,5", "-o", "out", "--predict")
    assert run(*words, "--file", "out/model.onnx", "--also", "again=digits?limit=300", "--write-guard") == 0
    assert "out/model.onnx: holds the guard now" in capsys.readouterr().out
    found = Behavior.load(tmp_path / "out" / "behavior.json")
    assert found.runtime.startswith("ONNX Runtime")
    assert [one.shift for one in found.shifted] == ["snow", "snow", "again"]
    assert all(one.predicted is not None for one in (found.clean, *found.shifted))
    guarded = bw.Guarded(tmp_path / "out" / "model.onnx", lambda x: x)
    assert guarded.guard == found.guard
    for more, message in (
        (("--write-guard",), "--write-guard writes into one exported file"),
        (("--write-guard", "--file", "out/model.onnx", "--policy", "W4A4"), "and nothing beside it"),
        (("--file", "none.onnx"), "there is no file 'none.onnx'"),
        (("--also", "digits"), "--also must be NAME=DATA"),
        (("--beside", "mine"), "--beside must be NAME=package.module:factory, got 'mine'"),
        (("--policy", "W4A4", "--retrain", "1", "--recipe", "r.json"), "--retrain trains one policy or recipe"),
        (("--policy", "W4A4", "--words", "none.txt"), "--words must be a readable text file"),
    ):
        assert run(*words, *more) == 2
        assert message in capsys.readouterr().err


def test_policies_recipes_files_and_other_models_are_compared(run, digits_flags, digits_model, tmp_path: Path, capsys):
    path = tmp_path / "theirs.pt"
    torch.save(digits_model.state_dict(), path)
    (tmp_path / "theirs.py").write_text(
        f"from bitwright.zoo import digits_net, load_weights\n\n\ndef net():\n"
        f"    return load_weights(digits_net(), {str(path)!r})\n"
    )
    assert run("repair", *digits_flags, *QUICK, "--policy", "W2A3", "bias", "-o", "out") == 0
    assert run("export", *digits_flags, *QUICK, "--policy", "W2A3", "-o", "out") == 0
    capsys.readouterr()
    words = ("behavior", *digits_flags, *QUICK, "--shifts", "snow", "--severities", "5", "-o", "out")
    more = ("--policy", "W2A3", "--recipe", "out/recipe.json", "--file", "out/model.onnx", "--beside", "own=theirs:net")
    assert run(*words, *more) == 0
    out = capsys.readouterr().out
    found = Behaviors.load(tmp_path / "out" / "behavior.json")
    names = list(found.studies)
    assert names == ["digits_net, W2A3", "own, W2A3", "W2A3, recipe.json", "out/model.onnx"]
    plain, theirs, repaired, file = found.studies.values()
    assert theirs == plain  # the same weights
    assert repaired.clean != plain.clean
    assert file.runtime.startswith("ONNX Runtime")
    page = (tmp_path / "out" / "behavior.html").read_text()
    assert all(name in page for name in names)
    assert page.count("data:image/png;base64,") == sum(len(one.examples) for one in found.studies.values()) > 0
    table = out.partition("Disagreements with float: on")[0]
    assert max(map(len, table.splitlines())) <= 80
    assert run(*words, *more) == 0  # from the store
    assert capsys.readouterr().out == out
    assert run(*words, "--policy", "W2A3") == 0  # which knows the cases of this one
    assert Behavior.load(tmp_path / "out" / "behavior.json") == plain


def test_a_policy_is_retrained_with_its_disagreements(run, digits_flags, tmp_path: Path, capsys, monkeypatch):
    words = ("behavior", *digits_flags, *QUICK, "--shifts", "snow", "--severities", "5", "-o", "out")
    asked = (*words, "--policy", "W2A3", "--retrain", "2")
    assert run(*asked) == 0
    out = capsys.readouterr().out
    found = Behavior.load(tmp_path / "out" / "behavior.json")
    again = found.retraining
    assert again is not None
    assert again.epochs == 2
    assert again.same.before == again.added > 0
    assert again.same.before + again.other.before == found.clean.disagreements + found.shifted[0].disagreements
    assert "Retraining: 2 epochs on " in out
    assert max(map(len, out.partition("The two decide")[0].splitlines())) <= 80
    assert 'id="retraining"' in (tmp_path / "out" / "behavior.html").read_text()
    monkeypatch.setattr("bitwright.train.loop.Loop.run", None)  # the second time, everything is in the store
    assert run(*asked) == 0
    assert capsys.readouterr().out == out
    assert run(*words, "--recipe", "out/retrained.json") == 0
    trained = Behavior.load(tmp_path / "out" / "behavior.json")
    assert trained.clean.disagreements + trained.shifted[0].disagreements == again.same.after + again.other.after
