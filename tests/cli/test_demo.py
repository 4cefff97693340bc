"""The demo, as a newcomer runs it: everything on, nothing to download."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

import bitwright.zoo
from bitwright.cli.job import load_job
from bitwright.cli.load import load_model
from bitwright.report import RunReport


def test_the_demo_shows_everything(run, digits_model, tmp_path: Path, capsys, monkeypatch) -> None:
    pytest.importorskip("onnxruntime", reason="the demo exports to ONNX Runtime")
    seeds = []

    def train(seed: int, progress: object) -> object:
        seeds.append(seed)
        return digits_model

    monkeypatch.setattr(bitwright.zoo, "train_digits_network", train)
    started = time.process_time()
    assert run("demo", "-o", "out", "--seed", 5) == 0
    assert time.process_time() - started < 100  # seconds of processor time: others may use the machine
    assert seeds == [5]
    job = load_job(tmp_path / "out" / "bitwright.toml")  # runs on the network that was trained here
    kept, trained = load_model(job).state_dict(), digits_model.state_dict()
    assert all(torch.equal(kept[name], value) for name, value in trained.items())
    captured = capsys.readouterr()
    assert captured.err == ""
    report = RunReport.from_json((tmp_path / "out" / "report.json").read_text())
    assert report.float_costs["bops"] / report.chosen.costs["bops"] > 60  # 32 x 32 bits to the BOPs of 4 x 4
    assert report.chosen.verdict.accuracy_change.low > -0.05
    uniform = next(m for m in report.baselines if m.policy.name == "W4A4")
    assert report.chosen.verdict.kl.value < uniform.verdict.kl.value
    assert report.parity.exact_agreement == 1
    assert report.parity.fused_agreement >= 0.995
    assert {item.batch for item in report.latency} >= {1, 32}
    assert (tmp_path / "out" / "model.onnx").stat().st_size > 0
    out = captured.out
    assert "ONNX Runtime agrees with the simulation on 500 of 500 inputs with its graph" in " ".join(out.split())
    assert "x the float latency" in out
    assert "model.onnx" in out
    assert max(len(line) for line in out.splitlines() if not line.startswith("  bitwright")) <= 80
