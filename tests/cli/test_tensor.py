from __future__ import annotations

import json
from pathlib import Path

import pytest

from bitwright.values.tensors import TensorView

QUICK = ("--calibration-samples", "48", "--batch-size", "32")

TRANSFORMER = """
import torch
from torch import nn


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(3, 8)
        self.norm = nn.LayerNorm(8)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.embed(x)
        x = x + self.down(torch.relu(self.up(self.norm(x))))
        return self.head(x.mean(1))


def model():
    torch.manual_seed(0)
    net = Encoder().eval()
    with torch.no_grad():
        net.norm.weight[5] = 40.0
    return net


def data():
    torch.manual_seed(1)
    x, y = torch.randn(96, 6, 3), torch.randint(4, (96,))
    return [(x[:64], y[:64])], [(x[64:], y[64:])]
"""


def test_sites_and_patterns_by_channel_on_the_terminal_and_as_a_page(run, digits_flags, tmp_path, capsys) -> None:
    words = ("tensor", "linear.weight", "layer1.*", *digits_flags, *QUICK, "--policy", "W4A4", "-o", "out")
    assert run(*words) == 0
    out = capsys.readouterr().out
    names = [line.split(" ")[0] for line in out.splitlines() if " 4 bits, step " in line or "(weight," in line]
    assert names[-1] == "linear.weight"  # in the order of the network
    assert "layer1.conv1.weight" in names
    for word in ("By output channel: The widest output channel", "rounded to zero", "clipped", "SQNR", "█"):
        assert word in " ".join(out.split())
    page = (tmp_path / "out" / "tensors.html").read_text()
    assert page.count("<section id=") == len(set(names))
    assert 'class="gridpoint"' in page


def test_a_transformer_is_seen_by_token_and_embedding_dimension(
    run, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "small_encoder_for_tensors.py").write_text(TRANSFORMER)
    monkeypatch.chdir(tmp_path)
    flags = ("--model", "small_encoder_for_tensors:model", "--data", "small_encoder_for_tensors:data")
    assert run("tensor", "norm", *flags, *QUICK, "--json") == 0
    (view,) = [TensorView.from_dict(one) for one in json.loads(capsys.readouterr().out)]
    assert view.bits == 8
    assert [(axis.name, axis.size) for axis in view.axes] == [("token", 6), ("embedding", 8)]
    embedding = view.axis("embedding")
    assert embedding.widest(1) == (5,)
    assert embedding.spread > 10
    assert max(embedding.to_zero[i] for i in range(8) if i != 5) > embedding.to_zero[5]


def test_bad_input_is_one_line(run, digits_flags, capsys) -> None:
    for words, message in (
        ((), "name the sites, e.g. `bitwright tensor conv1.weight"),
        (("liner.weight",), "did you mean 'linear.weight'"),
        (("layer1.relu1", "--samples", "0"), "samples must be at least 1"),
        (("linear.weight", "--policy", "W4A8", "--recipe", "x.json"), "a recipe has its own policy"),
    ):
        assert run("tensor", *words, *digits_flags, *QUICK) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
