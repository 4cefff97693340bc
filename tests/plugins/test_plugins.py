"""The packages of ``examples/plugins``, each installed as one of its own, with no file of Bitwright touched."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bitwright.quantizers.kind import QuantizerKind
from bitwright.registry import KINDS, Descriptor, registry_of
from bitwright.runtimes import Runtime
from bitwright.sensitivity import METHODS
from bitwright.tasks import Task

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PLUGINS = sorted((ROOT / "examples" / "plugins").glob("*/pyproject.toml"))


def install(project: Path, target: Path) -> dict[str, Any]:
    """What pip does with a package of single modules: copy them, and write down its name and entry points."""
    about = tomllib.loads(project.read_text(encoding="utf-8"))
    for module in about["tool"]["setuptools"]["py-modules"]:
        shutil.copy(project.parent / f"{module}.py", target)
    name = about["project"]["name"]
    info = target / f"{name.replace('-', '_')}-{about['project']['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {about['project']['version']}\n")
    lines = []
    for group, entries in about["project"]["entry-points"].items():
        lines += [f"[{group}]", *(f"{key} = {value}" for key, value in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return about


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What ``use.py`` saw with all packages installed."""
    for package in ("onnxruntime", "onnxscript", "sklearn", "plotly"):
        pytest.importorskip(package)
    installed, work = tmp_path_factory.mktemp("installed"), tmp_path_factory.mktemp("work")
    for project in PLUGINS:
        install(project, installed)
    path = os.pathsep.join([str(installed), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "use.py")],
        cwd=work,
        env={**os.environ, "PYTHONPATH": path, "BITWRIGHT_DEBUG": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_there_is_one_short_file_for_each_kind() -> None:
    kinds = {
        "method",
        "repair",
        "cost",
        "runtime",
        "data",
        "quantizer",
        "placement",
        "indicator",
        "shift",
        "strategy",
        "task",
    }
    assert {project.parent.name for project in PLUGINS} == kinds
    for project in PLUGINS:
        (module,) = project.parent.glob("*.py")
        assert 20 <= len(module.read_text(encoding="utf-8").splitlines()) <= 62, module


def test_each_keeps_the_contract_of_its_kind(used: dict[str, Any]) -> None:
    counts = used["contracts"]
    assert counts.pop("task") >= 4
    assert counts.pop("quantizer") >= 8
    assert counts == {
        "method": 6,
        "repair": 6,
        "cost": 5,
        "runtime": 5,
        "data": 4,
        "placement": 4,
        "indicator": 3,
        "shift": 5,
        "strategy": 5,
    }


def test_each_works_in_python(used: dict[str, Any]) -> None:
    seen = used["python"]
    assert seen["signed"]
    assert seen["unit"] == "noise over signal"
    assert seen["relative"]
    assert seen["traffic"][0] == pytest.approx(seen["traffic"][1], rel=1e-12)
    assert 0.5 < seen["budget"] <= 1
    assert seen["shrunk"]
    assert all(after == pytest.approx(0.9 * before, rel=1e-6) for before, after in seen["shrunk"])
    assert seen["put"] == 2
    assert seen["powers"]
    assert seen["repairs"] == ["shrink", "put"]
    assert seen["runs the same"] < 1e-4
    near, off, accuracy = seen["figures"]
    assert near == pytest.approx(seen["near by hand"], abs=1e-12)
    assert off == pytest.approx(seen["off by hand"], abs=1e-12)
    assert 0.5 < accuracy <= near
    assert 0 < off < 1


def test_each_works_on_the_command_line(used: dict[str, Any]) -> None:
    seen = used["commands"]
    codes = {name: found[0] for name, found in seen.items() if isinstance(found, list)}
    assert codes.pop("debug") in (0, 3, 4), seen["debug"]  # of a target that holds, is undecided, or fails
    commands = ("settings", "list", "shifts", "run", "repair", "behavior", "qat", "export")
    assert codes == {**dict.fromkeys(commands, 0), "refused": 2}, seen
    words = seen["settings"][1]
    for name in ("relative-error", "traffic", "edge-signed", "onnx-reference", "csv:FILE", "ordinal"):
        assert name in words, words
    listed = seen["list"][1]
    assert "shrink: Ranges of activations lose a share at both ends." in listed
    assert "options   share=0.05" in listed
    assert "Something in front of the camera." in seen["shifts"][1]
    assert "runner-up" in seen["behavior"][1]
    assert seen["refused"] == [
        2,
        f"error: method must be one of {', '.join(METHODS)}, relative-error, got 'relative-eror' (--method); did you "
        "mean 'relative-error'?\n",
    ]
    assert "shrink:" in seen["repair"][1]
    assert "put:" in seen["repair"][1]
    assert "the ONNX reference" in seen["export"][1]


def test_each_appears_in_search_report_and_flow(used: dict[str, Any]) -> None:
    seen = used["commands"]
    front = json.loads(seen["front.json"])
    assert front["cost"] == "traffic"
    assert all("traffic" in candidate["costs"] for candidate in front["candidates"])
    words = ("Near", "Classes off", "Memory traffic", "relative-error", "the ONNX reference", "edge-signed", "csv:")
    for word in words:
        assert word in seen["report.html"], word
    recipe = json.loads(seen["recipe.json"])
    assert [action["name"] for action in recipe["actions"]] == ["shrink", "put"]
    assert recipe["actions"][1]["quantizer"] == "power-of-two"
    tried = [row["label"] for step in json.loads(seen["findings"])["steps"] for row in step["measured"]]
    assert "repair shrink" in tried, tried


def test_the_page_is_made_of_these_files() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "plugins" / "page.py")], capture_output=True, text=True, check=True
    )
    assert (ROOT / "docs" / "extending.md").read_text(encoding="utf-8") == done.stdout


def test_the_page_explains_every_field_of_every_descriptor() -> None:
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    kinds = {type(next(iter(registry_of(kind).values()))) for kind in KINDS} | {QuantizerKind}
    kinds = {kind for kind in kinds if issubclass(kind, Descriptor)}
    names = {field.name for kind in kinds for field in dataclasses.fields(kind)}
    names |= {name for kind in (Runtime, Task) for name in vars(kind).get("__annotations__", {})}
    assert len(names) > 30
    assert not [name for name in names if f"\n| `{name}` | " not in page]
