from __future__ import annotations

import json
from pathlib import Path

from bitwright.behavior import SHIFTS
from bitwright.values.behavior import Behavior

QUICK = ("--calibration-samples", "48", "--batch-size", "32")


def test_a_policy_is_studied_under_shifts(run, digits_flags, tmp_path: Path, capsys):
    words = ("behavior", *digits_flags, *QUICK, "--policy", "W2A3", "--shifts", "contrast,snow", "--severities", "1,5")
    assert run(*words, "-o", "out") == 0
    out = capsys.readouterr().out
    found = Behavior.from_dict(json.loads((tmp_path / "out" / "behavior.json").read_text()))
    assert [(one.shift, one.severity) for one in found.shifted] == [
        (n, s) for n in ("contrast", "snow") for s in (1, 5)
    ]
    for word in ("as they are", "contrast 5", "snow 1", "AUROC", "Guard: where the "):
        assert word in out
    assert max(len(line) for line in out.splitlines() if "Guard" not in line and "two decide" not in line) <= 80
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
