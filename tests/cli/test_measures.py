"""A loss and a metric of the user's own, named on the command line."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

MODULE = """
import torch
from torch.nn import functional

def doubled(outputs, targets):
    return 2 * functional.cross_entropy(outputs, targets, reduction="none")

def third(outputs, targets):
    return float((outputs.topk(3, dim=1).indices == targets[:, None]).any(1).double().mean())

class Loss:
    pass

number = 3
"""


@pytest.fixture
def mine(run, tmp_path: Path) -> str:
    name = f"measures_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    return name


def test_evaluate_measures_by_the_users_loss_and_shows_the_metric(run, digits_flags, mine, capsys) -> None:
    common = ("evaluate", *digits_flags, "--policy", "W4A4", "--calibration-samples", 64)
    assert run(*common, "--json") == 0
    plain = json.loads(capsys.readouterr().out)
    own = ("--loss", f"{mine}:doubled", "--metric", f"{mine}:third")
    assert run(*common, *own, "--json") == 0
    verdict = json.loads(capsys.readouterr().out)
    mine, before = verdict["figures"], plain["figures"]
    assert mine["loss"]["value"]["value"] == pytest.approx(2 * before["loss"]["value"]["value"], rel=1e-6)
    assert mine["accuracy"] == before["accuracy"]
    assert (plain["primary_name"], verdict["primary_name"]) == ("accuracy", "metric")  # a metric of one's own decides
    metric = mine["metric"]
    assert mine["accuracy"]["value"]["value"] <= metric["value"]["value"] <= 1
    assert run(*common, *own) == 0
    shown = capsys.readouterr().out
    assert "metric" in shown
    assert all(f"{metric[part]['value']:.3g}" in shown for part in ("value", "reference"))


def test_sensitivity_scores_the_users_loss(run, digits_flags, mine, tmp_path: Path) -> None:
    common = ("sensitivity", *digits_flags, "--method", "fit", "--bits", "4", "--calibration-samples", 64)
    tables = []
    for flags in ((), ("--loss", f"{mine}:doubled")):
        assert run(*common, *flags) == 0
        with open(tmp_path / "bitwright-out" / "sensitivity.csv", newline="") as file:
            tables.append([float(row["harm"]) for row in csv.DictReader(file) if row["method"] == "fit"])
    first, second = tables
    assert second == pytest.approx([4 * value for value in first], rel=1e-4)  # FIT is a square


def test_the_job_file_keeps_them(run, digits_flags, mine, tmp_path: Path) -> None:
    flags = ("--budget", "bops=W4A4", "--bits", "4,8", "--points", 2, "--runtime", "none")
    assert run("run", *digits_flags, *flags, "--loss", f"{mine}:doubled", "--calibration-samples", 64) == 0
    assert f'loss = "{mine}:doubled"' in (tmp_path / "bitwright-out" / "bitwright.toml").read_text()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tird", "has no 'tird' (the metric '{mine}:tird'); did you mean 'third'?"),
        ("Loss", "the metric '{mine}:Loss' is a class; name a function (outputs, targets)"),
        ("number", "the metric '{mine}:number' must be a function (outputs, targets), got int"),
    ],
)
def test_what_is_no_function_is_refused(run, digits_flags, mine, capsys, name: str, message: str) -> None:
    assert run("evaluate", *digits_flags, "--policy", "W4A4", "--metric", f"{mine}:{name}") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert message.format(mine=mine) in said
