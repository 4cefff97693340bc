"""Nothing is left out silently: what is multiplied is counted, has sites, or is named with the reason."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode, flop_registry, register_flop_formula
from torchao.quantization.pt2e.quantizer import Quantizer

from bitwright.cost import Bops
from bitwright.errors import CaptureError
from bitwright.graph import calibrate, capture
from bitwright.graph.coverage import CONSTANT, JOINED, PARAMETER, STACK, UNKNOWN, UNPLACED
from bitwright.graph.pt2e import edge_quantizer
from bitwright.values import FLOAT, Coverage, LeftOut, Operation, Policy, Site, Sites

_spec = importlib.util.spec_from_file_location("networks", Path(__file__).parents[1] / "runtimes" / "networks.py")
_networks = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_networks)


class Net(nn.Module):
    """A forward function over layers and parameters."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs):
        return self.function(self, *inputs)


def matrix(*shape):
    return nn.Parameter(torch.randn(*shape) / shape[0] ** 0.5)


def unet():
    def function(m, x):
        a = m.down(x).relu()
        return m.last(torch.cat([a, m.up(m.middle(F.max_pool2d(a, 2)).relu())], 1))

    return Net(function, down=nn.Conv2d(3, 6, 3, padding=1), middle=nn.Conv2d(6, 8, 3, padding=1),
               up=nn.ConvTranspose2d(8, 6, 2, stride=2), last=nn.Conv2d(12, 4, 1))  # fmt: skip


# name -> (network, inputs' shapes, multiply-accumulates of one sample by hand)
COVERED = {
    "addmm": (
        lambda: Net(lambda m, x: torch.addmm(m.bias, x.view(-1, 8), m.weight).view(-1, 5, 6).relu(),
                    weight=matrix(8, 6), bias=matrix(6)),
        [(5, 8)], 5 * 8 * 6,
    ),
    "addmm with factors": (
        lambda: Net(lambda m, x: torch.addmm(m.bias, x, m.weight, beta=0.5, alpha=2.0),
                    weight=matrix(8, 6), bias=matrix(6)),
        [(8,)], 8 * 6,
    ),
    "mm": (lambda: Net(lambda m, x: torch.mm(x, m.weight).relu(), weight=matrix(8, 6)), [(8,)], 8 * 6),
    "a matrix on the left": (
        lambda: Net(lambda m, x: (m.weight @ x).view(-1, 56).relu(), weight=matrix(7, 5)), [(5, 8)], 7 * 5 * 8,
    ),
    "a vector": (lambda: Net(lambda m, x: (x @ m.weight).relu(), weight=matrix(8)), [(5, 8)], 5 * 8),
    "baddbmm": (
        lambda: Net(lambda m, x: torch.baddbmm(x.mean(2, keepdim=True), x, x.transpose(1, 2), beta=0.5, alpha=0.3)),
        [(5, 8)], 5 * 5 * 8,
    ),
    "tensordot, inner": (
        lambda: Net(lambda m, x: torch.inner(torch.tensordot(x, m.a, dims=([2], [0])).relu(), m.b),
                    a=matrix(8, 6), b=matrix(3, 6)),
        [(5, 8)], 5 * 8 * 6 + 5 * 6 * 3,
    ),
    "convolution": (
        lambda: Net(lambda m, x: torch.convolution(x, m.weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1),
                    weight=matrix(4, 3, 3, 3)),
        [(3, 6, 6)], 36 * 4 * 27,
    ),
    "video": (
        lambda: nn.Sequential(nn.Conv3d(2, 6, 3, padding=1), nn.BatchNorm3d(6), nn.ReLU(), nn.MaxPool3d(2),
                              nn.Conv3d(6, 4, 3, padding="same", groups=2), nn.AdaptiveAvgPool3d(1), nn.Flatten(),
                              nn.Linear(4, 3)),
        [(2, 4, 6, 6)], 144 * 6 * 54 + 18 * 4 * 81 + 12,
    ),
    "transposed video": (
        lambda: nn.Sequential(nn.ConvTranspose3d(3, 4, 3, stride=2), nn.BatchNorm3d(4), nn.ReLU(),
                              nn.ConvTranspose3d(4, 6, 2, groups=2), nn.BatchNorm3d(6)),
        [(3, 3, 3, 3)], 27 * 3 * 4 * 27 + 343 * 4 * 3 * 8,
    ),
    "bilinear": (
        lambda: Net(lambda m, x, y: m.both(x, y).relu(), both=nn.Bilinear(4, 5, 6)), [(4,), (3 + 2,)], 4 * 5 * 6,
    ),
    "attention": (
        lambda: Net(lambda m, x: m.layer(x, x, x, need_weights=False)[0],
                    layer=nn.MultiheadAttention(8, 2, batch_first=True)),
        [(5, 8)], 5 * 8 * 24 + 2 * (2 * 5 * 5 * 4) + 5 * 8 * 8,
    ),
    "attention with other keys": (
        lambda: Net(lambda m, x, y: m.layer(x, y, y)[0],
                    layer=nn.MultiheadAttention(8, 2, kdim=6, vdim=6, batch_first=True)),
        [(5, 8), (4, 6)], 5 * 8 * 8 + 2 * 4 * 6 * 8 + 2 * (2 * 5 * 4 * 4) + 5 * 8 * 8,
    ),
    "transformer encoder": (
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2,
                                      enable_nested_tensor=False),
        [(5, 8)], 2 * (5 * 8 * 24 + 2 * (2 * 5 * 5 * 4) + 5 * 8 * 8 + 2 * 5 * 8 * 16),
    ),
    "causal attention": (  # masked pairs of query and key count as any others
        lambda: Net(lambda m, x: F.scaled_dot_product_attention(x, x, x, is_causal=True)), [(5, 8)], 2 * 5 * 5 * 8,
    ),
    "recurrent cells with a state": (
        lambda: Net(lambda m, x, h: m.b(m.a(x, h), h), a=nn.GRUCell(4, 6), b=nn.GRUCell(6, 6)),
        [(4,), (6,)], 3 * (4 * 6 + 6 * 6 + 2 * 6 * 6),
    ),
    "depthwise": (
        lambda: nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.ReLU6(), nn.Conv2d(4, 8, 1), nn.ReLU6()),
        [(4, 6, 6)], 16 * 4 * 9 + 16 * 4 * 8,
    ),
    "u-net": (unet, [(3, 8, 8)], 64 * 6 * 27 + 16 * 8 * 54 + 16 * 8 * 6 * 4 + 64 * 4 * 12),
    "computed weight": (
        lambda: Net(lambda m, x: F.linear(m.layer(x).relu(), m.weight * m.gain).relu(),
                    layer=nn.Linear(4, 8), weight=matrix(6, 8), gain=matrix(6, 1)),
        [(4,)], 4 * 8 + 8 * 6,
    ),
}  # fmt: skip


def distance(graph, inputs):
    with torch.no_grad():
        exact = graph.apply(FLOAT)(*inputs)
        rounded = graph.apply(Policy.uniform(graph.sites, 8, 8))(*inputs)
        return float((rounded - exact).square().sum() / exact.square().sum())


@pytest.mark.parametrize("name", COVERED)
def test_every_multiplication_has_two_sites(name):
    build, shapes, macs = COVERED[name]
    model, inputs = build().eval(), tuple(torch.randn(32, *shape) for shape in shapes)
    graph = calibrate(capture(model, tuple(value[:2] for value in inputs)), [(inputs, None)])
    expected = model(*inputs).detach()
    torch.testing.assert_close(graph(*inputs), expected, rtol=1e-4, atol=1e-5)
    coverage = graph.coverage
    assert coverage.complete
    assert coverage.sentences() == ()
    assert coverage.macs == coverage.all_macs == sum(op.macs for op in graph.sites.operations)
    assert macs is None or coverage.macs == macs
    bops = Bops()
    assert bops.of(Policy.uniform(graph.sites, 4, 8), graph.sites) <= coverage.macs * 8 * 8
    assert bops.of(Policy.uniform(graph.sites, 8, 8), graph.sites) == coverage.macs * 8 * 8
    assert bops.of(FLOAT, graph.sites) == coverage.macs * 32 * 32
    assert 0 < distance(graph, inputs) < 2e-3
    torch.backends.mha.set_fastpath_enabled(False)  # which torch counts as nothing, and so fused attention
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            model(*(value[:2] for value in inputs))
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    uncounted = name in ("bilinear", "a vector")  # by torch
    assert uncounted or counter.get_total_flops() == 2 * 2 * coverage.macs
    wide = sum(p.numel() for p in model.parameters() if p.dim() > 1 and p.shape != (6, 1))
    assert coverage.all_weights == wide + (8 if name == "a vector" else 0)


@pytest.mark.parametrize("name", ["gpt2", "video", "pairs", "bag"])
def test_networks_of_other_kinds_keep_their_outputs_at_8_bits(name):
    model, inputs = _networks.build(name)
    graph = calibrate(capture(model, inputs[:2]), [(inputs, None)])
    assert distance(graph, (inputs,)) < 2e-3
    assert graph.coverage.macs == graph.coverage.all_macs


def test_weights_of_gpt2_are_sites_under_their_own_names_with_channels_of_outputs():
    model, inputs = _networks.build("gpt2")
    graph = capture(model, inputs[:2])
    assert {s.name: s.shape for s in graph.sites.weights} == {
        "tokens.weight": (20, 16),  # one site for the table and for the output layer
        "attend.weight": (48, 16),
        "project.weight": (16, 16),
        "wide.weight": (64, 16),
        "narrow.weight": (16, 64),
    }
    assert torch.equal(graph.weight("wide.weight"), model.wide.weight.t())
    assert {site.scheme.axis for site in graph.sites.weights} == {0}
    assert len(graph.biases()) == 4
    assert graph.coverage.left_out == (LeftOut("positions", "add", 0, 96, PARAMETER),)


def test_a_weight_that_is_read_both_ways_is_one_site():
    model = Net(lambda m, i: m.table(i).mean(1).relu() @ m.table.weight.t(), table=nn.Embedding(20, 8)).eval()
    graph = capture(model, torch.randint(20, (2, 5)))
    assert [site.name for site in graph.sites.weights] == ["table.weight"]
    assert graph.coverage.complete


BAGS = [{}, {"mode": "sum"}, {"mode": "max"}, {"padding_idx": 3}, {"mode": "sum", "padding_idx": 3}]


@pytest.mark.parametrize("options", BAGS)
def test_bags_of_rows_are_lookups(options):
    bag = nn.EmbeddingBag(20, 8, **options)
    nn.init.normal_(bag.weight)
    model, ids = nn.Sequential(bag, nn.Linear(8, 3)).eval(), torch.randint(0, 20, (32, 5))
    ids[0] = 3
    graph = calibrate(capture(model, ids[:2]), [(ids, None)])
    torch.testing.assert_close(graph(ids), model(ids), rtol=1e-5, atol=1e-6)
    assert [site.name for site in graph.sites.weights] == ["0.weight", "1.weight"]
    assert graph.coverage.complete
    assert distance(graph, (ids,)) < 2e-3


def test_bags_with_a_factor_for_each_row_are_lookups():
    bag = nn.EmbeddingBag(20, 8, mode="sum")
    model = Net(lambda m, ids, factors: m.head(m.bag(ids, per_sample_weights=factors)), bag=bag, head=nn.Linear(8, 3))
    inputs = torch.randint(0, 20, (32, 5)), torch.rand(32, 5)
    graph = capture(model.eval(), tuple(value[:2] for value in inputs))
    torch.testing.assert_close(graph(*inputs), model(*inputs))
    assert graph.coverage.complete


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.head = nn.Parameter(torch.randn(3, 8, 6)), nn.Linear(6, 2)

    def forward(self, x):
        return self.head(torch.bmm(x.unsqueeze(0).expand(3, -1, -1), self.weight).mean(0))


LEFT_OUT = {
    "a stack of weights": (Experts, (8,), "matmul", 3 * 8 * 6, 3 * 8 * 6, STACK),
    "an initial state": (
        lambda: Net(lambda m, x: m.head(m.layer(x)), layer=nn.RNNCell(4, 6), head=nn.Linear(6, 2)),
        (4,), "linear", 6 * 6, 6 * 6, CONSTANT,
    ),
    "a parameter that is added": (
        lambda: Net(lambda m, x: m.head(x + m.positions), positions=matrix(1, 5, 8), head=nn.Linear(8, 3)),
        (5, 8), "add", 0, 40, PARAMETER,
    ),
    "distances": (
        lambda: Net(lambda m, x: m.head(torch.cdist(x, m.centres)), centres=matrix(6, 8), head=nn.Linear(6, 3)),
        (5, 8), "cdist", 0, 48, PARAMETER,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_is_left_out_counts_32_bits_and_is_named_with_its_reason(name):
    build, shape, kind, macs, weights, reason = LEFT_OUT[name]
    graph = capture(build().eval(), torch.randn(2, *shape))
    coverage = graph.coverage
    (entry,) = coverage.left_out
    assert (entry.kind, entry.macs, entry.weights, entry.reason) == (kind, macs, weights, reason)
    assert coverage.all_macs - coverage.macs == macs
    assert coverage.all_weights - coverage.weights == weights
    policy = Policy.uniform(graph.sites, 4, 4)
    assert Bops().of(policy, graph.sites) == coverage.macs * 4 * 4 + macs * 32 * 32
    assert reason in coverage.sentences()[1]
    assert entry.name in coverage.sentences()[1]


@torch.library.custom_op("bitwright_tests::scaled", mutates_args=())
def scaled(x: torch.Tensor) -> torch.Tensor:
    return x * 2


@scaled.register_fake
def _(x):
    return torch.empty_like(x)


@pytest.fixture(scope="module")
def _counted_by_torch():
    operation = torch.ops.bitwright_tests.scaled
    register_flop_formula(operation)(lambda shape, *_, **__: 2 * 10 * shape[0])
    yield
    flop_registry.pop(operation)


@pytest.mark.usefixtures("_counted_by_torch")
def test_operations_that_only_torch_knows_are_counted_by_torch():
    graph = capture(Net(lambda m, x: m.head(scaled(x)), head=nn.Linear(8, 3)).eval(), torch.randn(2, 8))
    operations = [(op.kind, op.macs, op.left) for op in graph.sites.operations]
    assert operations == [("scaled", 10, None), ("linear", 24, "scaled")]
    assert [(entry.macs, entry.reason) for entry in graph.coverage.left_out] == [(10, UNKNOWN)]


class Without(Quantizer):
    """Places sites as the default does, but for the operations of some modules."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.names = names

    def annotate(self, model):
        edge_quantizer().annotate(model)
        for node in model.graph.nodes:
            if any(path in self.names for path, _ in node.meta.get("nn_module_stack", {}).values()):
                node.meta.pop("quantization_annotation", None)
        return model

    def validate(self, model):
        pass


def test_operands_that_another_placement_leaves_in_float_are_named():
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    left_out = capture(model, torch.randn(2, 8), Without("2")).coverage.left_out
    assert left_out == (LeftOut("2", "linear", 18, 18, UNPLACED),)


def test_a_quantizer_of_another_package_that_places_no_weight_is_refused():
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    with pytest.raises(CaptureError, match="the quantizer Without places no site at any weight of this network; set"):
        capture(model, torch.randn(2, 8), Without("0", "1", "2"))
    without_weights = nn.Sequential(nn.ReLU(), nn.MaxPool1d(2)).eval()
    assert not capture(without_weights, torch.randn(2, 3, 8), Without("0", "1")).sites.weights


class Head(nn.Module):
    """A detector's end: pixels beside probabilities, of two scales; and a concatenation that a layer reads."""

    def __init__(self):
        super().__init__()
        self.fine, self.coarse, self.mixed = nn.Conv2d(3, 5, 1), nn.Conv2d(3, 5, 2, stride=2), nn.Conv2d(6, 3, 1)

    def forward(self, x):
        x = self.mixed(torch.cat([x, x.flip(3)], 1))
        found = []
        for y in (self.fine(x), self.coarse(x)):
            y = y.flatten(2).transpose(1, 2)
            found.append(torch.cat([y[..., :4] * 160, y[..., 4:].sigmoid()], 2))
        return torch.cat(found, 1) * torch.tensor([1.0, 1.0, 1.0, 1.0, 0.5])


def test_what_a_concatenation_joins_on_its_way_out_keeps_its_own_values():
    torch.manual_seed(0)
    model, x = Head().eval(), torch.randn(64, 3, 8, 8)
    graph = calibrate(capture(model, x[:2]), [(x, None)])
    assert [site.name for site in graph.sites if site.operation == "cat"] == ["cat"]  # the one that a layer reads
    kinds = [(entry.kind, entry.macs, entry.weights, entry.reason) for entry in graph.coverage.left_out]
    assert kinds == [("cat", 0, 0, JOINED)] * 3
    assert graph.coverage.complete
    assert graph.coverage.sentences() == (f"cat ('cat' and 2 more; no multiply-accumulates) stays in float: {JOINED}.",)
    with torch.no_grad():
        expected, found = model(x), graph.apply(Policy.uniform(graph.sites, 8, 8))(x)
    assert found[..., 4].unique().numel() > 100  # on the grid of the pixels it would be 3
    assert (found[..., 4] - expected[..., 4]).abs().max() < 0.05


def test_what_a_layer_reads_later_on_shares_a_grid():
    model = Net(
        lambda m, x: m.b(torch.cat([m.a(x), m.a(x).exp()], 1).neg()), a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(8, 2, 1)
    )
    graph = capture(model.eval(), torch.randn(2, 3, 4, 4))
    assert any(site.operation == "cat" for site in graph.sites)
    assert graph.coverage.left_out == ()


def test_coverage_by_hand():
    sites = Sites(
        (Site("x", "activation", (1, 4)), Site("w", "weight", (8, 4))),
        (
            Operation("a", "linear", 900, "x", "w"),
            Operation("b", "conv9d", 100, None, None),
            Operation("c", "linear", 3000, None, "w"),
        ),
        left_out=(LeftOut("b", "conv9d", 100, 96, "unknown"), LeftOut("c", "linear", 3000, 0, "unplaced")),
    )
    assert sites.coverage == Coverage(900, 4000, 32, 128, sites.left_out)
    assert not sites.coverage.complete
    assert sites.coverage.sentences() == (
        "Whatever the policy, 77.5% of the multiply-accumulates and 75.0% of the weights stay in float, counted at "
        "32 bits.",
        "linear ('c'; 75.0% of the multiply-accumulates) stays in float: unplaced.",
        "conv9d ('b'; 2.5% of the multiply-accumulates, 75.0% of the weights) stays in float: unknown.",
    )
    assert Sites.from_dict(sites.to_dict()) == sites


@torch.library.custom_op("bitwright_test::experts", mutates_args=())
def experts(x: torch.Tensor, weight: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    parts = x.tensor_split(ends[:-1].tolist())
    return torch.cat([part @ one for part, one in zip(parts, weight, strict=True)])


@experts.register_fake
def _(x, weight, ends):
    return x.new_empty(x.shape[0], weight.shape[2])


@pytest.mark.usefixtures("_beyond_torch")
def test_products_inside_another_package_s_operator_are_counted():
    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.last = nn.Parameter(torch.randn(3, 32, 16)), nn.Linear(16, 4)

        def forward(self, x):
            ends = torch.full((3,), x.shape[0], dtype=torch.int64).cumsum(0)
            return self.last(experts(x.flatten(0, 1), self.weight, ends).relu()).unflatten(0, x.shape[:2])

    coverage = capture(Experts().eval(), torch.randn(4, 3, 32)).coverage
    assert (coverage.all_macs, coverage.macs) == (3 * 32 * 16 + 3 * 16 * 4, 3 * 16 * 4)
    assert (coverage.all_weights, coverage.weights) == (3 * 32 * 16 + 16 * 4, 16 * 4)
    (left,) = coverage.left_out
    assert (left.macs, left.weights) == (3 * 32 * 16, 3 * 32 * 16)
