"""Exported programs from files: honest ones load, and nothing that stands in a file is ever run."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitwright.errors import InvalidInput
from bitwright.graph.exported import load_exported
from bitwright.zoo import load_weights

Edit = Callable[[dict[str, bytes], str], None]


class Net(nn.Module):
    """Parameters, buffers that are kept and not, a constant, a part without gradients, outputs in containers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3)
        self.constant = torch.full((3,), 2.0)
        self.register_buffer("kept", torch.arange(3.0))
        self.register_buffer("loose", torch.ones(3), persistent=False)

    def forward(self, x: Tensor) -> dict[str, Any]:
        with torch.no_grad():
            hidden = self.norm(self.conv(x)).relu()
        mean = hidden.mean((2, 3)).view(x.shape[0], -1)
        logits = self.fc(mean) * self.constant + self.kept * self.loose
        return {
            "logits": logits,
            "more": (nn.functional.gelu(mean, approximate="tanh"), x.flatten(1, 2).repeat(1, 2, x.shape[0] + 1)),
        }


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return exec, (f"open({self.marker!r}, 'w').close()",)


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "net.pt2"
    dynamic = ({0: torch.export.Dim("batch", min=2, max=64)},)
    torch.export.save(torch.export.export(Net().eval(), (torch.randn(4, 1, 8, 8),), dynamic_shapes=dynamic), path)
    return path


def rewritten(source: Path, target: Path, edit: Edit, marker: Path) -> Path:
    """The archive with parts exchanged; names are without the root folder."""
    with zipfile.ZipFile(source) as archive:
        parts = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    edit(parts, str(marker))
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in parts.items():
            archive.writestr(f"net/{name}", content)
    return target


def saved(value: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def changed(parts: dict[str, bytes], name: str, change: Callable[[Any], None]) -> None:
    content = json.loads(parts[name])
    change(content)
    parts[name] = json.dumps(content).encode()


def hint(parts: dict[str, bytes], folder: str, marker: str, file: str, use_pickle: bool) -> None:
    def change(config: Any) -> None:
        entry = next(iter(config["config"].values()))
        entry.update(path_name=file, use_pickle=use_pickle)

    changed(parts, f"data/{folder}/model_{folder}_config.json", change)
    parts[f"data/{folder}/{file}"] = pickle.dumps(Evil(marker)) if file.startswith("opaque") else saved(Evil(marker))


def samples(parts: dict[str, bytes], marker: str) -> None:
    parts["data/sample_inputs/model.pt"] = saved(((Evil(marker),), {}))


def program(change: Callable[[Any, str], None]) -> Edit:
    return lambda parts, marker: changed(parts, "models/model.json", lambda content: change(content, marker))


def code(marker: str) -> str:
    return f"open({marker!r},'w')"


def size(content: Any, marker: str) -> None:
    graph = content["graph_module"]["graph"]
    next(iter(graph["sym_int_values"].values()))["as_expr"]["expr_str"] = code(marker)


def renamed(content: Any, marker: str) -> None:
    text = json.dumps(content).replace('"x"', json.dumps(f"x=[{code(marker)}]"))
    content.update(json.loads(text))


def operation(content: Any, marker: str) -> None:
    node = content["graph_module"]["graph"]["nodes"][-1]
    words = [{"name": "", "arg": {"as_string": word}, "kind": 1} for word in ("touch", marker)]
    node.update(target="torch.os.execlp", inputs=words)


def factory(content: Any, marker: str) -> None:
    signature = content["graph_module"]["module_call_graph"][0]["signature"]
    context = json.dumps({"default_factory_module": "os", "default_factory_name": "getcwd", "dict_context": []})
    leaf = {"type": "collections.defaultdict", "context": context, "children_spec": []}
    signature["out_spec"] = json.dumps([1, leaf])


def legacy(parts: dict[str, bytes], marker: str) -> None:
    for folder in ("weights", "constants"):
        parts[f"data/{folder}/model.pt"] = saved({"a": Evil(marker)})


HOSTILE: dict[str, tuple[Edit, str]] = {
    "weights": (lambda p, m: hint(p, "weights", m, "weight_99", True), "the pickled object 'conv.weight' among"),
    "constants": (lambda p, m: hint(p, "constants", m, "tensor_99", True), "the pickled object '.*' among"),
    "custom": (lambda p, m: hint(p, "constants", m, "custom_obj_0", True), "the pickled object '.*' among"),
    "opaque": (lambda p, m: hint(p, "constants", m, "opaque_obj_0", True), "the pickled object '.*' among"),
    "opaque, not said to be": (lambda p, m: hint(p, "constants", m, "opaque_obj_0", False), "the pickled object '.*'"),
    "older": (legacy, "pickled weights"),
    "size": (program(size), 'the size "open'),
    "name": (program(renamed), "the (name|text|key) "),
    "operation": (program(operation), "the operation 'torch.os.execlp'"),
    "containers": (program(factory), "inputs or outputs of the type 'collections.defaultdict'"),
}


def test_an_honest_file_computes_what_it_was_exported_from(honest: Path) -> None:
    x = torch.randn(6, 1, 8, 8)
    mine, torchs = load_exported(honest), torch.export.load(honest)
    found, expected = mine.module()(x), torchs.module()(x)
    assert torch.equal(found["logits"], expected["logits"])
    assert torch.equal(found["more"][0], expected["more"][0])
    assert torch.equal(found["more"][1], expected["more"][1])
    assert set(mine.state_dict) == set(torchs.state_dict)
    assert torch.equal(mine.example_inputs[0][0], torchs.example_inputs[0][0])
    stacks = [[dict(n.meta.get("nn_module_stack") or {}) for n in p.graph.nodes] for p in (mine, torchs)]
    assert stacks[0] == stacks[1]


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_would_run_code_is_refused_before_it_runs(kind: str, honest: Path, tmp_path: Path) -> None:
    edit, message = HOSTILE[kind]
    path = rewritten(honest, tmp_path / "evil.pt2", edit, tmp_path / "marker")
    with pytest.raises(
        InvalidInput, match=rf"^'.*evil.pt2' holds {message}.*name the model as module:factory, or pass"
    ):
        load_exported(path)
    assert not (tmp_path / "marker").exists()


def test_hostile_sample_inputs_are_left_out(honest: Path, tmp_path: Path) -> None:
    loaded = load_exported(rewritten(honest, tmp_path / "evil.pt2", samples, tmp_path / "marker"))
    assert not loaded.example_inputs
    assert loaded.module()(torch.randn(3, 1, 8, 8))["logits"].shape == (3, 3)
    assert not (tmp_path / "marker").exists()


def test_guards_in_the_file_are_not_evaluated(honest: Path, tmp_path: Path) -> None:
    edit = program(lambda content, marker: content.update(guards_code=[code(marker)]))
    loaded = load_exported(rewritten(honest, tmp_path / "evil.pt2", edit, tmp_path / "marker"))
    loaded.module()(torch.randn(3, 1, 8, 8))
    assert not (tmp_path / "marker").exists()


def test_compiled_libraries_in_the_file_are_left_alone(honest: Path, tmp_path: Path) -> None:
    def edit(parts: dict[str, bytes], marker: str) -> None:
        parts["data/aotinductor/model/model.so"] = b"no library"

    loaded = load_exported(rewritten(honest, tmp_path / "more.pt2", edit, tmp_path / "marker"))
    assert loaded.module()(torch.randn(3, 1, 8, 8))["logits"].shape == (3, 3)


def test_the_layout_of_older_versions_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "old.pt2", "w") as archive:
        archive.writestr("version", "8.0")
        archive.writestr("serialized_exported_program.json", "{}")
        for part in ("state_dict", "constants", "example_inputs"):
            archive.writestr(f"serialized_{part}.pt", saved({"a": Evil(str(tmp_path / "marker"))}))
    with pytest.raises(InvalidInput, match="holds the layout of torch 2.7 or older"):
        load_exported(tmp_path / "old.pt2")
    assert not (tmp_path / "marker").exists()


def test_a_trusted_file_is_read_as_torch_reads_it(honest: Path, tmp_path: Path) -> None:
    path = rewritten(honest, tmp_path / "mine.pt2", samples, tmp_path / "marker")
    load_exported(path, trust=True)
    assert (tmp_path / "marker").exists()


def test_weights_are_read_without_running_what_is_pickled_in_them(tmp_path: Path) -> None:
    torch.save({"weight": Evil(str(tmp_path / "marker"))}, tmp_path / "w.pt")
    with pytest.raises(InvalidInput, match=r"w\.pt"):
        load_weights(nn.Linear(3, 2), tmp_path / "w.pt")
    assert not (tmp_path / "marker").exists()
