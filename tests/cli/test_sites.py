from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from bitwright.cli.main import main
from bitwright.values import Sites


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "convnet.py").write_text(
        "from torch import nn\n"
        "def build():\n"
        "    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()\n"
    )
    monkeypatch.chdir(tmp_path)


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(words)
    return int(caught.value.code or 0)


def test_a_table_of_the_sites(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("sites", "--model", "convnet:build", "--inputs", "1x8x8") == 0
    out = capsys.readouterr().out
    row = next(line for line in out.splitlines() if line.startswith("3.weight"))
    assert row.split()[:3] == ["3.weight", "weight", "3x144"]
    assert "432" in row
    # 36 positions x 36 MACs + 144 x 3 MACs, float: 32 x 32 bits
    assert f"bops: float {(36 * 36 + 432) * 1024 / 1e6:.4g}M" in out


def test_json_reads_back(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("sites", "--model", "convnet:build", "--inputs", "1,8,8", "--json") == 0
    sites = Sites.from_dict(json.loads(capsys.readouterr().out))
    assert "0.weight" in sites.names


def test_a_wrong_input_shape_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("sites", "--model", "convnet:build", "--inputs", "3x8x8") == 2
    err = capsys.readouterr().err
    assert err.startswith("error: the model does not run on example_inputs of shape (2, 3, 8, 8)")
    assert err.count("\n") == 1


def test_settings_come_from_the_job_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bitwright.toml").write_text("model = 'convnet:build'\ninputs = [1, 8, 8]\n")
    assert run("sites") == 0
    assert "0.weight" in capsys.readouterr().out


def test_what_stays_in_float_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "added.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "class Added(nn.Linear):\n"
        "    def __init__(self):\n"
        "        super().__init__(8, 3)\n"
        "        self.positions = nn.Parameter(torch.ones(5, 8))\n"
        "    def forward(self, x):\n"
        "        return super().forward(x + self.positions)\n"
        "def build():\n"
        "    return Added().eval()\n"
    )
    assert run("sites", "--model", "added:build", "--inputs", "5x8") == 0
    said = capsys.readouterr().out
    assert "0% of the multiply-accumulates and 62.5% of the weights stay in float, counted at 32 bits." in said
    assert "add ('positions'; 62.5% of the weights) stays in float: of parameters, only weights" in said
    run("sites", "--model", "added:build", "--inputs", "5x8", "--json")
    assert Sites.from_dict(json.loads(capsys.readouterr().out)).coverage.weights == 24


def test_inputs_are_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("sites", "--model", "convnet:build") == 2
    assert capsys.readouterr().err.startswith("error: no inputs given: pass --inputs (e.g. --inputs 3x32x32)")


class _Marks:
    """A sample input that creates a file when it is unpickled."""

    def __reduce__(self) -> object:
        return exec, ("open('marker', 'w').close()",)


def test_an_exported_file_runs_code_only_if_trusted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dynamic = ({0: torch.export.Dim("batch", min=1)},)
    program = torch.export.export(nn.Linear(3, 2).eval(), (torch.zeros(2, 3),), dynamic_shapes=dynamic)
    program.example_inputs = ((_Marks(),), {})
    torch.export.save(program, "mine.pt2")
    assert run("sites", "--model", "mine.pt2", "--inputs", "3") == 0
    assert "weight" in capsys.readouterr().out
    assert not (tmp_path / "marker").exists()
    run("sites", "--model", "mine.pt2", "--inputs", "3", "--trust")
    assert (tmp_path / "marker").exists()
