from __future__ import annotations

import importlib
import json
from pathlib import Path

from bitwright.values.sweep import Sweep

QUICK = ("--calibration-samples", "48", "--batch-size", "32")


def test_both_sweeps_in_one_table_worst_first(run, digits_flags, tmp_path: Path, capsys, monkeypatch) -> None:
    words = ("sweep", *digits_flags, *QUICK, "--policy", "W2A8", "-o", "out", "--top", "3")
    assert run(*words) == 0
    out = capsys.readouterr().out
    data = json.loads((tmp_path / "out" / "sweep.json").read_text())
    on, off = Sweep.from_dict(data["alone on"]), Sweep.from_dict(data["alone off"])
    assert len(on) == len(off)
    assert on.base == {}
    assert len(off.base) == len(off)
    assert [row.kl for row in on] == sorted((row.kl for row in on), reverse=True)
    places = [out.index(row.label) for row in on.rows[:3]]
    assert places[0] < places[1] < places[2]
    assert f"... {len(on) - 3} more" in out
    page = (tmp_path / "out" / "sweep.html").read_text()
    assert page.count('<th scope="row"') == len(on)
    sweeps = importlib.import_module("bitwright.sensitivity.sweep")
    monkeypatch.setattr(sweeps, "run_variants", None)  # nothing may be measured again
    assert run(*words) == 0
    assert capsys.readouterr().out == out


def test_blocks_are_switched_together(run, digits_flags, tmp_path: Path, capsys) -> None:
    assert run("sweep", *digits_flags, *QUICK, "--policy", "W2A8", "-o", "out", "--blocks", "1", "--top", "0") == 0
    data = json.loads((tmp_path / "out" / "sweep.json").read_text())
    labels = [row["label"] for row in data["alone on"]["rows"]]
    assert "layer1" in labels
    assert "layer1.conv1.weight" not in labels


def test_bad_input_is_one_line(run, digits_flags, capsys) -> None:
    assert run("sweep", *digits_flags, *QUICK, "--blocks", "-1") == 2
    assert "depth must be at least 1, got -1" in capsys.readouterr().err
    assert run("sweep", *digits_flags, *QUICK, "--policy", "W1A8") == 2
    assert capsys.readouterr().err.count("\n") == 1
