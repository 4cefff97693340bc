"""A regression network through the command line: what works, and the one line that the rest says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

MODULE = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 2)).eval()

def data():
    torch.manual_seed(1)
    inputs = torch.randn(120, 5)
    with torch.no_grad():
        targets = build()(inputs) + 0.1 * torch.randn(120, 2)
    return (inputs[:80], targets[:80]), (inputs[80:], targets[80:])

def loss(outputs, targets):
    return (outputs - targets).square().mean(1)

def r2(outputs, targets):
    return float(1 - (outputs - targets).square().mean() / targets.var())
"""


@pytest.fixture
def flags(tmp_path: Path) -> tuple[str, ...]:
    name = f"regression_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    return ("--model", f"{name}:build", "--data", f"{name}:data", "--loss", f"{name}:loss", "--metric", f"{name}:r2")


def test_search_evaluate_and_export(run, flags, tmp_path: Path, capsys) -> None:
    pytest.importorskip("onnxruntime")
    assert run("search", *flags, "--budget", "bops=W4A4") == 0
    assert "FIT was used instead of Margin-FIT" in capsys.readouterr().out
    assert run("evaluate", *flags, "--json") == 0
    verdict = json.loads(capsys.readouterr().out)
    assert verdict["samples"] == 40
    sqnr = verdict["figures"]["sqnr"]["value"]
    assert 10 < sqnr["low"] < sqnr["value"] < sqnr["high"]
    metric = verdict["figures"]["metric"]
    assert verdict["primary_name"] == "metric"
    assert metric["value"]["value"] < metric["reference"]["value"]
    assert run("evaluate", *flags) == 0
    out = capsys.readouterr().out
    assert "SQNR, dB" in out
    assert "Top-1" not in out
    assert run("export", *flags) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "outputs differ from the simulation's by at most" in out
    assert (tmp_path / "bitwright-out" / "model.onnx").exists()


def test_sensitivity_is_by_fit(run, flags, capsys) -> None:
    assert run("sensitivity", *flags, "--bits", "4", "--at", 4) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "Sensitivity at 4 bits by fit" in out
    assert "nats" not in out


def test_the_whole_job_goes_without_classes(run, flags, tmp_path: Path, capsys) -> None:
    pytest.importorskip("onnxruntime")
    few = ("--points", "4", "--bits", "3,4,8", "--budget", "bops=W4A4")
    assert run("run", *flags[:4], *few) == 0  # the loss is the squared error
    out = " ".join(capsys.readouterr().out.split())
    assert "loss (float" in out
    assert "ranked by relative squared error" in out
    assert "Top-1" not in out
    page = (tmp_path / "bitwright-out" / "report.html").read_text(encoding="utf-8")
    assert "Relative squared error" in page
    assert "Top-1" not in page
    assert run("repair", "bias", *flags[:4], "--policy", "W4A8") == 0
    assert "Relative squared error on held-out calibration samples:" in " ".join(capsys.readouterr().out.split())
    assert run("sweep", *flags[:4], "--policy", "W4A4") == 0
    assert "Relative squared error. Alone on" in " ".join(capsys.readouterr().out.split())
    assert run("debug", *flags[:4], "--policy", "W8A8", "--target-drop", "50") == 0
    assert "loss" in capsys.readouterr().out
