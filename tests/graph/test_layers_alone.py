"""Placements that quantize layers alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bitwright.errors import InvalidInput
from bitwright.graph import calibrate, capture
from bitwright.graph.layers_alone import layer_quantizer
from bitwright.runtimes import export, parity
from bitwright.values import Policy


class Block(nn.Module):
    """A transformer's block with its norms behind the additions, over embeddings, and a head."""

    def __init__(self):
        super().__init__()
        self.table, self.norm = nn.Embedding(20, 16), nn.LayerNorm(16)
        self.query, self.value = nn.Linear(16, 16), nn.Linear(16, 16, bias=False)
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.up, self.down, self.head = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, 5)

    def forward(self, ids):
        x = self.norm(self.table(ids))
        scores = self.query(x) @ x.transpose(1, 2)
        x = self.norm1(x + torch.softmax(scores, -1) @ self.value(x))
        return self.head(self.norm2(x + self.down(nn.functional.gelu(self.up(x)))).mean(1))


@pytest.fixture
def block():
    torch.manual_seed(0)
    return Block().eval()


@pytest.fixture
def ids():
    return torch.randint(20, (64, 6), generator=torch.Generator().manual_seed(0))


def test_sites_are_weights_and_what_linear_layers_read(block, ids):
    graph = capture(block, ids[:2], "linear")
    assert graph.sites.names == (
        "table.weight",
        "query.input",
        "query.weight",
        "value.weight",
        "up.input",
        "up.weight",
        "down.input",
        "down.weight",
        "head.input",
        "head.weight",
    )
    left = {operation.kind for operation in graph.sites.operations if operation.left is None}
    assert left == {"matmul"}
    assert capture(block, ids[:2], "weight-only").sites.activations == ()


def test_a_norm_that_only_linear_layers_read_needs_no_scales():
    network = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8)).eval()
    graph = capture(network, torch.randn(2, 3, 8), "linear")
    assert graph.sites.names == ("0", "1.weight")
    assert "input_scales" not in dict(graph.module.named_children())


def test_groups_are_of_inputs(block, ids):
    sites = capture(block, ids[:2], "weight-only?group_size=8").sites
    assert {site.scheme.group_size for site in sites} == {8}
    assert sites["down.weight"].scales == 16 * 4


class Residual(nn.Module):
    """A convolution whose input is added to its output, and a head."""

    def __init__(self):
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 8, 3, bias=False), nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.head = nn.Linear(8, 4, bias=False)

    def forward(self, x):
        x = self.stem(x).relu()
        return self.head((x + self.conv(x)).mean((2, 3)))


def test_what_a_convolution_reads_is_quantized_for_it_alone(tmp_path):
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    network, x = Residual().eval(), torch.randn(32, 3, 8, 8)
    graph = calibrate(capture(network, x[:2], "layers"), [x])
    assert [site.name for site in graph.sites.activations] == ["x", "relu", "mean"]
    policy = Policy.uniform(graph.sites, 3, 3)
    graph.apply(policy)

    def put(name, tensor):
        return graph.quantizers[name].quantize(tensor, 3)

    weights = {name: put(f"{name}.weight", module.weight) for name, module in network.named_children()}
    with torch.no_grad():
        read = nn.functional.conv2d(put("x", x), weights["stem"]).relu()
        summed = read + nn.functional.conv2d(put("relu", read), weights["conv"], padding=1)
        expected = nn.functional.linear(put("mean", summed.mean((2, 3))), weights["head"])
        assert not torch.equal(put("relu", read), read)
        assert torch.allclose(graph(x), expected, atol=1e-5)
    export(graph, tmp_path / "model.onnx")
    found = parity(graph, tmp_path / "model.onnx", [x], task="regression")
    assert found.exact_difference < 1e-5


@pytest.mark.parametrize("placement", ["linear", "dynamic", "weight-only"])
@pytest.mark.parametrize("bits", [4, 8])
def test_the_file_gives_what_is_simulated(block, ids, tmp_path, placement, bits):
    graph = calibrate(capture(block, ids[:2], placement), [(ids, None)])
    policy = Policy.uniform(graph.sites, bits, 8)
    exported = export(graph, tmp_path / "m.onnx", policy=policy)
    assert exported.bytes < exported.float_bytes
    found = parity(graph, exported.path, [(ids, None)])
    assert found.exact_difference < 1e-5
    assert found.fused_difference < 1e-5


def test_dynamic_products_are_integer_products_with_biases_in_float(block, ids, tmp_path):
    import onnx

    graph = capture(block, ids[:2], "dynamic")  # ranges are made from each tensor, so that nothing is calibrated
    policy = Policy.uniform(graph.sites, 8, 8)
    exported = export(graph, tmp_path / "m.onnx", policy=policy)
    kinds = [node.op_type for node in onnx.load(str(tmp_path / "m.onnx")).graph.node]
    assert kinds.count("MatMulInteger") == 5
    assert kinds.count("DynamicQuantizeLinear") == 4
    assert exported.scales["biases"] == {}
    assert exported.scales["sites"]["up.input"]["dynamic"]
    found = parity(graph, exported.path, [(ids, None)])
    assert found.exact_difference < 1e-5
    graph.apply(policy)
    with torch.no_grad():
        wanted, alone = graph(ids), torch.cat([graph(row[None]) for row in ids])
    assert not torch.equal(wanted, alone)  # one grid for a whole batch


@pytest.mark.parametrize("bits", [3, 16])
def test_dynamic_widths_without_an_operator_of_their_own(block, ids, tmp_path, bits):
    graph = capture(block, ids[:2], "dynamic")
    exported = export(graph, tmp_path / "m.onnx", policy=Policy.uniform(graph.sites, 8, bits))
    assert parity(graph, exported.path, [(ids, None)]).exact_difference < 1e-3


@pytest.mark.parametrize("group_size", [8, 12, 16])
def test_tables_in_groups_store_one_step_for_each_group(ids, tmp_path, group_size):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Embedding(300, 16), nn.Linear(16, 4)).eval()
    graph = calibrate(capture(network, ids[:2], layer_quantizer("float", group_size)), [(ids, None)])
    exported = export(graph, tmp_path / "m.onnx", policy=Policy.uniform(graph.sites, 4, None))
    groups = -(-16 // group_size)
    stored = 300 * groups * (group_size / 2 + 4)
    assert stored < exported.bytes < stored + 3000
    found = parity(graph, exported.path, [(ids, None)])
    assert max(found.exact_difference, found.fused_difference) < 1e-6


@pytest.mark.parametrize(("bits", "group_size"), [(8, None), (4, 8), (8, 16)])
def test_weights_of_float_products_are_unpacked_when_the_file_is_loaded(block, ids, tmp_path, bits, group_size):
    import onnx

    from bitwright.runtimes.onnxruntime import Session

    graph = calibrate(capture(block, ids[:2], layer_quantizer("float", group_size)), [(ids, None)])
    export(graph, tmp_path / "m.onnx", policy=Policy.uniform(graph.sites, bits, None))
    Session(tmp_path / "m.onnx", optimised_path=tmp_path / "o.onnx")
    optimised = onnx.load(str(tmp_path / "o.onnx")).graph
    assert "DequantizeLinear" not in {node.op_type for node in optimised.node}
    stored = {tensor.name for tensor in optimised.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    products = [node for node in optimised.node if node.op_type in ("Gemm", "FusedGemm") or "MatMul" in node.op_type]
    assert sum(bool(stored.intersection(node.input)) for node in products) == 5


def test_unused_scales_are_not_in_the_file(block, ids, tmp_path):
    import onnx

    graph = calibrate(capture(block, ids[:2], "linear"), [(ids, None)])
    policy = Policy.uniform(graph.sites, 8, 8)

    def products():
        export(graph, tmp_path / "m.onnx", policy=policy)
        return [node.name for node in onnx.load(str(tmp_path / "m.onnx")).graph.node if ".input/" in node.name]

    assert products() == []
    with torch.no_grad():
        graph.module.input_scales.scale_0[3] = 0.5
    assert products() == ["query.input/Mul"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activations": "none"}, "activations must be static, dynamic or float, got 'none'"),
        ({"group_size": 1}, "group_size must be at least 2, got 1"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(InvalidInput, match=message):
        layer_quantizer(**options)
