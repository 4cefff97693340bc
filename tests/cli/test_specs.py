from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from bitwright.cli.specs import load_data, load_model
from bitwright.errors import InvalidInput

NET = """
import torch
from torch import nn
def build():
    return nn.Linear(3, 2).eval()
def training():
    return nn.Linear(3, 2)
def wide(width, depth=2):
    return nn.Linear(width, depth).eval()
def number():
    return 3
def broken():
    return nn.Linear(3, 2)(torch.zeros(4))
def data():
    x, y = torch.zeros(6, 3), torch.tensor([0, 1, 0, 1, 0, 1])
    return (x[:4], y[:4]), (x[4:], y[4:])
def no_data():
    return 5
ready = nn.Linear(3, 2).eval()
constant = 7
class Holder:
    build = staticmethod(build)
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A current folder with a module of the user's own; what it imports is forgotten again."""
    (tmp_path / "mynet.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", ".")])
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith(("mynet", "wrong", "needs")):
            del sys.modules[name]


@pytest.mark.parametrize("spec", ["mynet:build", "mynet:ready", "mynet:Holder.build"])
def test_a_model_from_the_current_folder(spec: str) -> None:
    model = load_model(spec)
    assert isinstance(model, nn.Linear)
    assert not model.training


def test_weights_are_loaded_and_the_model_is_then_in_evaluation_mode(tmp_path: Path) -> None:
    source = nn.Linear(3, 2)
    torch.save(source.state_dict(), tmp_path / "w.pt")
    model = load_model("mynet:training", tmp_path / "w.pt")
    assert isinstance(model, nn.Linear)
    assert torch.equal(model.weight, source.weight)
    assert not model.training


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mynet", r"^a model must have the form package.module:factory or FILE.pt2, got 'mynet'$"),
        ("mynet:", r"^a model must have the form package.module:factory"),
        ("mynt:build", r"^there is no module 'mynt' \(the model 'mynt:build'\) in '.*; did you mean 'mynet'\?"),
        ("mynet.sub:build", r"^there is no module 'mynet.sub'"),
        ("mynet:buld", r"^'mynet' has no 'buld' \(the model 'mynet:buld'\); did you mean 'build'\?$"),
        ("mynet:wide", r"^the model factory 'mynet:wide' needs arguments \(width\); write a function without"),
        ("mynet:number", r"^the model 'mynet:number' must give a torch.nn.Module, got int$"),
        ("mynet:constant", r"^the model 'mynet:constant' must be a function or class, got int$"),
        ("mynet:training", r"^the model that 'mynet:training' gives is in training mode; return model.eval\(\) there"),
        ("mynet:broken", r"^the model factory 'mynet:broken' failed: RuntimeError: .*line \d+\)$"),
        ("none.pt2", r"^there is no model file 'none.pt2'$"),
        ("mynet.pt2", r"^'mynet.pt2' cannot be read as an exported model: "),
    ],
)
def test_what_is_wrong_with_a_model_is_one_line(tmp_path: Path, spec: str, message: str) -> None:
    (tmp_path / "mynet.pt2").write_bytes(b"no archive")
    with pytest.raises(InvalidInput, match=message) as caught:
        load_model(spec)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "import nothing_of_that_name",
            r"importing 'wrong' \(the model 'wrong:build'\) failed: ModuleNotFoundError: .* \(.*wrong.py line 1\)$",
        ),
        ("x = 1\ny = x +\n", r"failed: SyntaxError: invalid syntax \(.*wrong.py line 2\)$"),
        ("import sys\nsys.exit(0)\n", r"failed: SystemExit: 0 \(.*wrong.py line 2\)$"),
        ("\n1 / 0\n", r"failed: ZeroDivisionError: division by zero \(.*wrong.py line 2\)$"),
    ],
)
def test_a_module_that_cannot_be_imported_says_where(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "wrong.py").write_text(text)
    with pytest.raises(InvalidInput, match=message):
        load_model("wrong:build")


def test_an_exported_file(tmp_path: Path) -> None:
    program = torch.export.export(nn.Linear(3, 2).eval(), (torch.zeros(2, 3),))
    torch.export.save(program, tmp_path / "m.pt2")
    assert isinstance(load_model(str(tmp_path / "m.pt2")), torch.export.ExportedProgram)
    with pytest.raises(InvalidInput, match="weights cannot be loaded into the exported file"):
        load_model(str(tmp_path / "m.pt2"), tmp_path / "w.pt")


def test_data_from_a_factory_and_built_in() -> None:
    made = load_data("mynet:data")
    assert (len(made.calibration), len(made.evaluation)) == (4, 2)
    pytest.importorskip("sklearn", reason="the data 'digits' needs scikit-learn")
    assert len(load_data("digits?limit=10").calibration) == 10


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("digts", r"^unknown data 'digts'; did you mean 'digits'\?"),
        ("cifr10:somewhere", r"^unknown data 'cifr10'; did you mean 'cifar10'\?"),
        ("cifar10:nowhere", r"^no folder at nowhere"),
        ("mynet:dat", r"^'mynet' has no 'dat' \(the data 'mynet:dat'\); did you mean 'data'\?"),
        ("mynet:no_data", r"^data must be a pair \(calibration, evaluation\)"),
        ("nothere:make", r"^there is no module 'nothere' \(the data 'nothere:make'\)"),
    ],
)
def test_what_is_wrong_with_data_is_one_line(spec: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        load_data(spec)
