"""Bad input of every kind, through the command line: one line on stderr that says what and the way out, and code 2."""

from __future__ import annotations

import errno
import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest

from bitwright.values import Policy

NETS = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()

def other_weights():
    model = net()
    with torch.no_grad():
        model[0].weight.mul_(2)
    return model

def training():
    return net().train()

def with_nan():
    model = net()
    with torch.no_grad():
        model[3].bias[1] = float("nan")
    return model
"""


TASK = """
from bitwright.tasks import Classification

class Broken(Classification):
    name = "broken"

    def head(self, logits, targets):
        return {}["no such key"]
"""


def write_data(name: str, size: int = 24, shape=(1, 8, 8), targets=None, nan: bool = False) -> None:
    random = np.random.RandomState(0)
    x = random.rand(size, *shape).astype(np.float32)
    if nan:
        x[1, 0, 0, 0] = np.nan
    y = np.arange(size) % 3 if targets is None else np.full(size, targets)
    np.savez(name, x_calibration=x, y_calibration=y, x_evaluation=x[:10], y_evaluation=y[:10])


@pytest.fixture
def refused(run, tmp_path: Path, capsys):
    """Runs a command that must be refused; gives its one line."""
    (tmp_path / "badnets.py").write_text(NETS)
    write_data("good.npz")

    def call(*words: object) -> str:
        assert run(*words) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith("error: ")
        assert captured.err.count("\n") == 1
        assert "Traceback" not in captured.err + captured.out
        return captured.err.strip()

    return call


def flags(model: str = "net", data: str = "good") -> tuple[str, ...]:
    return ("--model", f"badnets:{model}", "--data", f"npz:{data}.npz", "--batch-size", "8")


def test_a_model_in_training_mode(refused) -> None:
    assert "is in training mode; return model.eval() there" in refused("run", *flags("training"))


def test_a_wrong_input_shape(refused) -> None:
    write_data("wide.npz", shape=(1, 9, 9))
    line = refused("run", *flags(data="wide"))
    assert "the model does not run on example_inputs of shape (2, 1, 9, 9)" in line


def test_empty_data(refused) -> None:
    write_data("empty.npz", size=0)
    assert "has no samples" in refused("run", *flags(data="empty"))


def test_too_little_data(refused) -> None:
    write_data("little.npz", size=5)
    assert "has 5 samples; a run needs at least 8" in refused("run", *flags(data="little"))


def test_targets_outside_the_classes(refused) -> None:
    write_data("targets.npz", targets=3)
    line = refused("run", *flags(data="targets"))
    assert "targets must be between 0 and 2 (the model has 3 outputs), got 3" in line


def test_nan_in_the_weights(refused) -> None:
    assert "the weight '3.bias' holds NaN or infinite values" in refused("run", *flags("with_nan"))


def test_nan_in_the_data(refused) -> None:
    write_data("nan.npz", nan=True)
    assert "hold NaN or infinity, first in sample 1" in refused("run", *flags(data="nan"))


def test_an_unknown_site_in_a_policy(refused) -> None:
    Policy({"0.weigt": 4}).save("policy.json")
    line = refused("evaluate", *flags(), "--policy", "policy.json")
    assert "the policy names site '0.weigt'" in line
    assert "did you mean '0.weight'?" in line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--bits", "1,4"), "bits holds a value that must be greater than or equal to 2, got 1 (--bits)"),
        (("--bits", "4,x"), "bits must be whole numbers with ',' between them, got '4,x' (--bits)"),
        (("--bits", "4,17"), "bits holds a value that must be less than or equal to 16, got 17 (--bits)"),
        (("--budget", "bops=W1A4"), "bits must be between 2 and 16, got 1"),
        (("--pin", "0.weight=32"), "pins['0.weight'] must map sites to whole numbers of bits from 2 to 16"),
    ],
)
def test_bits_out_of_range_in_flags(refused, words, message: str) -> None:
    assert message in refused("run", *flags(), *words)


def test_bits_out_of_range_in_a_policy(refused, tmp_path: Path) -> None:
    (tmp_path / "policy.json").write_text('{"bits": {"0.weight": 1}}')
    assert "bits must be between 2 and 16, got 1 for site '0.weight'" in refused(
        "export", *flags(), "--policy", "policy.json"
    )
    assert "bits must be between 2 and 16, got 99" in refused("evaluate", *flags(), "--policy", "W99A8")


def test_a_policy_of_another_model(refused, run, capsys) -> None:
    assert run("search", *flags("other_weights"), "--bits", "4,8", "--budget", "bops=W4A8", "-o", "other") == 0
    capsys.readouterr()
    line = refused("evaluate", *flags(), "--policy", "other/policy.json")
    assert "the policy was made for graph" in line
    assert "capture the same model" in line


def test_a_typo_in_the_job_file(refused, tmp_path: Path) -> None:
    (tmp_path / "bitwright.toml").write_text("model = 'badnets:net'\nbatchsize = 8\n")
    line = refused("run")
    assert line == "error: unknown setting 'batchsize' (bitwright.toml line 2); did you mean 'batch_size'?"


def test_a_missing_extra(refused, monkeypatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnx" else find(name))
    assert "install it with: pip install 'bitwright[onnx]'" in refused("run", *flags())


def test_a_full_disk(refused, monkeypatch) -> None:
    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr("bitwright.files.flush", full)
    line = refused("sensitivity", *flags(), "--bits", "4")
    assert line.startswith("error: the disk is full: cannot write 'bitwright-out/sensitivity.json'; free some space")


def test_an_impossible_budget(refused) -> None:
    line = refused("run", *flags(), "--budget", "size=2%", "--runtime", "none")
    assert "no policy fits: size=2%" in line
    assert "the smallest possible is size=" in line


def test_an_unknown_method(refused) -> None:
    assert "method must be one of fit, margin-fit" in refused("sensitivity", *flags(), "--method", "magrin-fit")


def test_an_unknown_device(refused) -> None:
    assert "the device 'cuda:99' cannot be used" in refused("sensitivity", *flags(), "--device", "cuda:99")


def test_a_model_that_torch_export_cannot_trace(refused, tmp_path: Path) -> None:
    (tmp_path / "branching.py").write_text(
        "from torch import nn\n"
        "class Branching(nn.Module):\n"
        "    def forward(self, x):\n"
        "        return x * 2 if x.sum() > 0 else x\n"
        "def build():\n"
        "    return nn.Sequential(Branching(), nn.Flatten(), nn.Linear(64, 3)).eval()\n"
    )
    line = refused("sites", "--model", "branching:build", "--inputs", "1x8x8")
    assert "torch.export stopped in module '0' (Branching)" in line
    assert "branching.py:4" in line


def test_a_pin_that_matches_no_site(refused) -> None:
    line = refused("search", *flags(), "--pin", "0.wieght=8", "--bits", "4,8")
    assert "'0.wieght' matches none of the" in line


def test_a_task_of_ones_own_that_fails(refused, tmp_path: Path) -> None:
    (tmp_path / "badtasks.py").write_text(TASK)
    line = refused("evaluate", *flags(), "--policy", "W8A8", "--task", "badtasks:Broken")
    assert "code of your own failed: KeyError: 'no such key'" in line
    assert "badtasks.py line 8" in line
