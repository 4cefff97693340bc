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
    assert "Margin-FIT gave way to FIT" in capsys.readouterr().out
    assert run("evaluate", *flags, "--json") == 0
    verdict = json.loads(capsys.readouterr().out)
    assert verdict["samples"] == 40
    assert 10 < verdict["sqnr"]["low"] < verdict["sqnr"]["value"] < verdict["sqnr"]["high"]
    assert verdict["metrics"]["metric"] < verdict["metrics"]["float metric"]
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


@pytest.mark.parametrize("words", [("run",), ("repair", "gptq", "--policy", "W4A8"), ("sweep",), ("debug",)])
def test_what_judges_by_classes_says_so_in_one_line(run, flags, words, capsys) -> None:
    assert run(*words, *flags) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(errors) == 1
    assert f"{words[0]} judges by accuracy and KL to float" in errors[0]
    assert "evaluate_regression" in errors[0]


def test_float_targets_need_a_loss(run, flags, capsys) -> None:
    assert run("sensitivity", *flags[:4]) == 2
    assert "must be integers (class numbers from 0), got float32; for regression give a loss" in capsys.readouterr().err
