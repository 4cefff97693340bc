"""ExecuTorch: programs that run in XNNPACK's integer kernels, from the placement of XNNPACK's own quantizer."""

from __future__ import annotations

import shutil
import sys

import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.errors import ExportError, InvalidInput, MissingExtra
from bitwright.runtimes import RUNTIMES
from bitwright.runtimes.latency import latency
from bitwright.settings import Settings

pytest.importorskip("executorch")


@pytest.fixture(scope="module")
def graph(digits_model, digits_data):
    inputs, targets = digits_data[0]
    return bw.calibrate(bw.capture(digits_model, inputs[:2], "xnnpack"), [(inputs[:256], targets[:256])])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("executorch")


@pytest.fixture(scope="module")
def exported(graph, folder):
    """The digits network at W4A8, the linear layer's weights in half a byte each."""
    return bw.export(graph, folder / "model.pte", "executorch", bw.Policy.uniform(graph.sites, 4, 8))


@pytest.fixture(scope="module")
def floats(graph, folder):
    return bw.export(graph, folder / "float.pte", "executorch", bw.FLOAT)


def test_it_predicts_what_was_simulated_with_integer_kernels(graph, digits_data, exported):
    inputs, targets = digits_data[1]
    found = bw.parity(graph, exported.path, [(inputs[:200], targets[:200])], runtime="executorch")
    assert found.runtime.startswith("ExecuTorch 1.")
    assert found.fused_agreement >= 0.99
    assert found.fused.steps <= 1
    assert (found.exact, found.exact_agreement, found.exact_difference) == (None, None, None)
    assert RUNTIMES["executorch"].unfused(exported.path) == ()


def test_the_file_holds_the_bytes_that_the_cost_counts(graph, exported):
    from executorch.exir._serialize._program import deserialize_pte_binary

    stored = {name: entry["dtype"] for name, entry in exported.scales["sites"].items() if entry["kind"] == "weight"}
    assert stored == {s.name: "INT4" if s.operation == "linear" else "INT8" for s in graph.sites.weights}
    held = deserialize_pte_binary(exported.path.read_bytes()).named_data
    counted = sum(RUNTIMES["executorch"].weight_bytes(site, 4) for site in graph.sites.weights)
    biases = sum(8 * site.shape[0] for site in graph.sites.weights)  # values and steps
    assert sum(len(bytes(buffer)) for buffer in held.buffers) == counted + biases


def test_a_float_file_computes_what_the_network_computes(graph, digits_data, exported, floats):
    inputs = digits_data[1][0][:50]
    with graph.applied(bw.FLOAT), torch.no_grad():
        wanted = graph(inputs)
    found = torch.from_numpy(RUNTIMES["executorch"].load(floats.path)(inputs)[0])
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-4)
    assert exported.float_bytes == floats.bytes == floats.path.stat().st_size
    assert any("convolution" in layer for layer in RUNTIMES["executorch"].unfused(floats.path))
    (timed,) = latency(exported.path, floats.path, batches=(2,), seconds=0.01, runtime="executorch")
    assert timed.seconds > 0


def test_batches_above_the_largest_run_in_parts(digits_data, exported):
    session, inputs = RUNTIMES["executorch"].load(exported.path), digits_data[1][0][:70]
    parts = [torch.from_numpy(session(inputs[start : start + 7])[0]) for start in range(0, 70, 7)]
    assert torch.equal(torch.from_numpy(session(inputs)[0]), torch.cat(parts))


def test_programs_go_on_when_others_take_other_threads(exported):
    runtime = RUNTIMES["executorch"]
    one, two = (runtime.load(exported.path, threads=threads) for threads in (1, 2))
    inputs = one.random_inputs(3)
    assert (one(*inputs)[0] == two(*inputs)[0]).all()
    assert (one(*inputs)[0] == two(*inputs)[0]).all()


def test_the_behavior_of_a_file(graph, digits_data, exported):
    inputs, targets = digits_data[1]
    batches = [(inputs[:100], targets[:100])]
    found = bw.behavior(graph, exported.path, batches, ["gaussian-noise"], severities=[3], runtime="executorch")
    assert found.runtime.startswith("ExecuTorch")
    simulated = bw.behavior(graph, bw.Policy.uniform(graph.sites, 4, 8), batches, ["gaussian-noise"], severities=[3])
    assert found.clean.disagreements == simulated.clean.disagreements


def test_metadata_is_added_in_the_file(exported, folder):
    runtime, path = RUNTIMES["executorch"], folder / "annotated.pte"
    shutil.copy(exported.path, path)
    before = runtime.load(path)
    runtime.annotate(path, {"bitwright.guard": "{}"})
    after = runtime.load(path)
    assert dict(after.metadata) == {**before.metadata, "bitwright.guard": "{}"}
    inputs = before.random_inputs(2)
    assert (before(*inputs)[0] == after(*inputs)[0]).all()


def test_what_cannot_be_run_is_refused(exported, tmp_path):
    runtime = RUNTIMES["executorch"]
    with pytest.raises(InvalidInput, match="there is no file"):
        runtime.load(tmp_path / "none.pte")
    with pytest.raises(InvalidInput, match="threads must be at least 1"):
        runtime.load(exported.path, threads=0)
    (tmp_path / "broken.pte").write_bytes(b"no program")
    with pytest.raises(ExportError, match="ExecuTorch cannot load"):
        runtime.load(tmp_path / "broken.pte")
    with pytest.raises(ExportError, match="no program that Bitwright wrote"):
        runtime.annotate(tmp_path / "broken.pte", {})
    with pytest.raises(InvalidInput, match="the file takes 1 inputs, got 2"):
        runtime.load(exported.path)(torch.zeros(1, 1, 8, 8), torch.zeros(1))
    with pytest.raises(bw.errors.InvalidData, match="it takes float32 of at most"):
        runtime.load(exported.path)(torch.zeros(1, 1, 9, 8))


def test_the_missing_package_is_named(exported, monkeypatch):
    monkeypatch.setitem(sys.modules, "executorch.extension.pybindings", None)
    with pytest.raises(MissingExtra, match=r"'executorch' is needed.*pip install 'bitwright\[xnnpack\]'"):
        RUNTIMES["executorch"].load(exported.path)


def test_runs_take_the_placement_of_the_runtime():
    assert Settings(runtime="executorch").placement == "xnnpack"
    assert Settings(runtime="executorch", quantizer="edge").placement == "edge"
    assert Settings().placement == Settings(runtime="none").placement == "auto"


class Mixed(nn.Module):
    """Words, a sum with a constant, a recurrent layer, and a linear layer that writes floats."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 6)
        self.position = nn.Parameter(torch.randn(1, 2, 6))
        self.rnn = nn.RNN(6, 5, batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, ids):
        return self.head(self.rnn(self.embedding(ids) + self.position)[0][:, -1])


def test_what_xnnpack_cannot_take_runs_in_other_kernels(tmp_path):
    model, ids = Mixed().eval(), torch.randint(0, 20, (4, 2))
    graph = bw.calibrate(bw.capture(model, ids), [ids])
    policy = bw.Policy.uniform(graph.sites, 8, 8)
    path = bw.export(graph, tmp_path / "mixed.pte", "executorch", policy).path
    with graph.applied(policy), torch.no_grad():
        simulated = graph(ids)
    found = torch.from_numpy(RUNTIMES["executorch"].load(path)(ids)[0])  # fewer samples than it has memory for
    torch.testing.assert_close(found, simulated, rtol=1e-4, atol=1e-5)
    assert any("rnn" in layer for layer in RUNTIMES["executorch"].unfused(path))


def test_an_operation_without_a_kernel_is_named(tmp_path):
    pool = nn.Sequential(nn.Conv3d(1, 2, 1), nn.MaxPool3d(2)).eval()
    graph = bw.capture(pool, torch.randn(2, 1, 4, 4, 4), "xnnpack")
    with pytest.raises(ExportError, match="no kernel for the operation 'aten::max_pool3d"):
        bw.export(graph, tmp_path / "pool.pte", "executorch", bw.FLOAT)


class Scaled(nn.Module):
    """A product with a constant, which XNNPACK's quantizer would have quantized as if it were an activation."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.rand(8))
        self.linear = nn.Linear(8, 3)

    def forward(self, x):
        return self.linear(x * self.factor)


def test_constants_stay_in_float():
    graph = bw.capture(Scaled().eval(), torch.randn(2, 8), "xnnpack")
    assert [site.name for site in graph.sites.weights] == ["linear.weight"]


def test_ranges_of_whole_tensors_are_refused(tmp_path):
    x = torch.randn(4, 8)
    graph = bw.calibrate(bw.capture(nn.Linear(8, 3).eval(), x, "dynamic"), [x])
    with pytest.raises(ExportError, match="takes its range from each tensor as a whole"):
        bw.export(graph, tmp_path / "dynamic.pte", "executorch", bw.Policy.uniform(graph.sites, 8, 8))
