from __future__ import annotations

import builtins
import json
import re

import onnx
import pytest
import torch
from torch import nn

from bitwright.cost import costs_for
from bitwright.errors import ExportError, InvalidInput, InvalidPolicy, MissingExtra, StoreError
from bitwright.graph import calibrate, capture
from bitwright.runtimes import RUNTIMES, export, scales_json
from bitwright.values import FLOAT, Policy


@pytest.fixture(scope="module")
def wide():
    """A network whose weights are most of its file."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3)).eval()
    inputs = torch.randn(4, 3, 8, 8)
    return calibrate(capture(model, inputs[:2]), [(inputs, None)])


def initializers(path):
    return {t.name: t for t in onnx.load(str(path)).graph.initializer}


def test_four_bit_weights_are_stored_two_in_a_byte(wide, tmp_path):
    sizes = {}
    for bits in (4, 8, 16):
        result = export(wide, tmp_path / "model.onnx", policy=Policy.uniform(wide.sites, bits, 8))
        sizes[bits] = result.bytes
        assert result.bytes == result.path.stat().st_size
        stored = initializers(result.path)["2.weight.integers"]
        assert onnx.TensorProto.DataType.Name(stored.data_type) == f"INT{bits}"
        assert len(stored.raw_data) == 64 * 32 * 9 * bits // 8
    weights = 64 * 32 * 9 + 32 * 3 * 9
    assert sizes[8] - sizes[4] == pytest.approx(weights / 2, rel=0.05)
    assert sizes[16] - sizes[8] == pytest.approx(weights, rel=0.05)
    assert sizes[4] < 0.25 * result.float_bytes


def test_int8_storage_leaves_out_smaller_types(wide, tmp_path):
    result = export(wide, tmp_path / "model.onnx", policy=Policy.uniform(wide.sites, 4, 8), storage="int8")
    kinds = {t.data_type for t in initializers(result.path).values()}
    assert onnx.TensorProto.INT4 not in kinds
    assert "2 weight sites at 4 bits are stored as INT8 with the range -8..7" in result.notes


def test_the_float_policy_writes_the_float_model(wide, tmp_path):
    result = export(wide, tmp_path / "model.onnx", policy=FLOAT)
    assert result.scales["sites"] == {}
    assert result.notes == ()
    assert 0 <= result.bytes - result.float_bytes < 400  # the metadata
    assert not {n.op_type for n in onnx.load(str(result.path)).graph.node} & {"QuantizeLinear", "DequantizeLinear"}


def test_notes_say_what_stays_in_float_whatever_the_policy(captured, tmp_path):
    graph, _ = captured("gpt2")
    notes = export(graph, tmp_path / "model.onnx", policy=Policy.uniform(graph.sites, 8, 8)).notes
    assert notes == graph.coverage.sentences() != ()


def test_notes_name_the_widths_that_the_runtime_cannot_hold(wide, tmp_path):
    policy = Policy.uniform(wide.sites, 3, 6)
    notes = export(wide, tmp_path / "model.onnx", policy=policy).notes
    assert "2 weight sites at 3 bits are stored as INT4 with the range -4..3" in notes
    assert any("at 6 bits are stored as UINT8 with the range 0..63" in note for note in notes)


def test_the_file_and_the_scales_say_what_they_hold(wide, tmp_path):
    policy = Policy.uniform(wide.sites, 4, 8)
    result = export(wide, tmp_path / "model.onnx", policy=policy)
    model = onnx.load(str(result.path))
    metadata = {p.key: p.value for p in model.metadata_props}
    assert metadata["bitwright.graph"] == wide.graph_hash
    assert dict(Policy.from_json(metadata["bitwright.policy"]).bits) == dict(policy.bits)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    data = json.loads(scales_json(result))
    assert data["policy"]["bits"] == dict(policy.bits)
    assert set(data["sites"]) == set(wide.sites.names)
    entry = data["sites"]["2.weight"]
    assert (entry["bits"], entry["dtype"], entry["low"], entry["high"]) == (4, "INT4", -8, 7)
    assert len(entry["scale"]) == 64
    assert wide.policy == FLOAT


def test_every_operation_of_a_convolutional_network_runs_in_integers(captured, tmp_path):
    unfused = RUNTIMES["onnxruntime"].unfused
    for name in ("conv", "residual"):
        graph, _ = captured(name)
        result = export(graph, tmp_path / "model.onnx", policy=Policy.uniform(graph.sites, 4, 4))
        assert unfused(result.path) == ()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"runtime": "onnxruntim"},
            "runtime must be one of onnxruntime, openvino, executorch, got 'onnxruntim'; did you mean 'onnxruntime'",
        ),
        ({"storge": "int8"}, "runtime 'onnxruntime' has no option 'storge'; did you mean 'storage'? (it has: storage)"),
        ({"storage": "int9"}, "storage must be one of smallest, int8, packed, got 'int9'; did you mean 'int8'"),
    ],
)
def test_unknown_choices_are_refused(wide, tmp_path, arguments, message):
    with pytest.raises(InvalidInput, match=re.escape(message)):
        export(wide, tmp_path / "model.onnx", **arguments)


def test_a_policy_of_unknown_sites_is_refused(wide, tmp_path):
    with pytest.raises(InvalidPolicy, match="names site 'nowhere'"):
        export(wide, tmp_path / "model.onnx", policy=Policy({"nowhere": 4}))


def test_a_folder_that_cannot_be_written_leaves_nothing(wide, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write"):
        export(wide, tmp_path / "file" / "model.onnx", policy=FLOAT)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_missing_package_gives_the_install_command(wide, tmp_path, monkeypatch):
    import importlib

    load = importlib.import_module

    def missing(name, *rest):
        if name == "onnxscript":
            raise ImportError(name=name)
        return load(name, *rest)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(MissingExtra, match=r"pip install 'bitwright\[onnx\]'"):
        export(wide, tmp_path / "model.onnx")
    importer = builtins.__import__

    def without_runtime(name, *rest):
        if name == "onnxruntime":
            raise ImportError(name=name)
        return importer(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_runtime)
    with pytest.raises(MissingExtra, match="to run exported models"):
        RUNTIMES["onnxruntime"].version()


def test_an_operation_without_an_onnx_equivalent_is_named_on_one_line(tmp_path):
    class Strange(nn.Module):
        def forward(self, x):
            return torch.special.bessel_j0(x)

    inputs = torch.randn(2, 3)
    graph = capture(Strange().eval(), inputs)
    with pytest.raises(ExportError, match="bessel_j0.*has no ONNX equivalent") as caught:
        export(graph, tmp_path / "model.onnx")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_would_be_too_large_is_refused(wide, tmp_path, monkeypatch):
    import importlib

    monkeypatch.setattr(importlib.import_module("bitwright.runtimes.export"), "_LARGEST_FILE", 1000)
    with pytest.raises(ExportError, match="an ONNX file holds at most 2"):
        export(wide, tmp_path / "model.onnx", policy=Policy.uniform(wide.sites, 8, 8))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "widths"), [("conv", (None, 8)), ("residual", (None, 4)), ("mlp", (None, 3, 16))])
def test_the_predicted_size_is_the_files_but_for_what_describes_the_graph(captured, tmp_path, name, widths):
    """Beside the parameters a file holds the graph, the grids of activations and the steps of biases."""
    graph, _ = captured(name)
    size = costs_for("onnxruntime")["size"]
    differences = []
    for weights in widths:
        policy = Policy.uniform(graph.sites, weights, 8)
        exported = export(graph, tmp_path / "model.onnx", policy=policy)
        stored = onnx.load(exported.path).graph.initializer
        parameters = sum(len(t.raw_data) for t in stored)
        beside = 4 * sum(s.scales for s in graph.sites.weights) + 16 * len(graph.sites) + 128
        assert 0 <= parameters - size.of(policy, graph.sites) <= beside
        differences.append(exported.bytes - size.of(policy, graph.sites))
    quantized = differences[1:]
    assert max(quantized) - min(quantized) < 0.2 * max(quantized)  # the graph takes about the same at every width


def test_a_runtime_that_fails_half_way_leaves_the_old_file(wide, tmp_path, monkeypatch):
    path = export(wide, tmp_path / "model.onnx", policy=FLOAT).path
    before = path.read_bytes()

    def stops(graph, path, storage="smallest"):
        path.write_bytes(b"half")
        raise ExportError("stopped")

    monkeypatch.setattr(RUNTIMES["onnxruntime"], "export", stops)
    with pytest.raises(ExportError, match="stopped"):
        export(wide, path)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("model.onnx", before)]
