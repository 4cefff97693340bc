"""Networks of every kind: the graph in float computes what the model computes, and leaves the model alone."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional

from bitwright.errors import CaptureError, InvalidData, InvalidInput, MissingExtra
from bitwright.graph import calibrate, capture
from bitwright.graph.pt2e import PLACEMENTS, edge_quantizer, named_quantizer
from bitwright.values import FLOAT, Policy


class Net(nn.Module):
    """Layers and a forward function in one line."""

    def __init__(self, function, **layers):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.function(self, x)


class Two(Net):
    def forward(self, x, y):
        return self.function(self, x, y)


class Any(Net):
    def forward(self, *inputs):
        return self.function(self, *inputs)


def conv(*arguments, **options):
    return nn.Conv2d(*arguments, **options)


def vector(size):
    return nn.Parameter(torch.randn(size))


def heads(tensor):
    return tensor.unflatten(-1, (2, -1)).transpose(1, 2)


IMAGE, SIGNAL, SEQUENCE = (4, 8, 8), (4, 12), (5, 8)

NETWORKS = {
    "conv, bn, relu": (
        lambda: nn.Sequential(conv(4, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), conv(6, 3, 1)),
        IMAGE,
        ["input", "0.weight", "2", "3.weight", "3"],
    ),
    "grouped, depthwise, dilated": (
        lambda: nn.Sequential(conv(4, 8, 2, groups=2, dilation=2), conv(8, 8, 3, groups=8, stride=2), conv(8, 2, 2)),
        IMAGE,
        ["input", "0.weight", "0", "1.weight", "1", "2.weight", "2"],
    ),
    "1d": (
        lambda: nn.Sequential(
            nn.Conv1d(4, 4, 3, bias=False), nn.BatchNorm1d(4), nn.ReLU(), nn.MaxPool1d(2), nn.AvgPool1d(2)
        ),
        SIGNAL,
        ["input", "0.weight", "2", "4"],
    ),
    "transposed": (
        lambda: nn.Sequential(nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1), nn.BatchNorm2d(6), nn.ReLU6()),
        IMAGE,
        ["input", "0.weight", "2"],
    ),
    "transposed 1d, grouped": (
        lambda: nn.Sequential(nn.ConvTranspose1d(4, 6, 3, groups=2), nn.ReLU()),
        SIGNAL,
        ["input", "0.weight", "1"],
    ),
    "string padding": (
        lambda: nn.Sequential(conv(4, 4, 3, padding="same"), conv(4, 4, 3, padding="valid")),
        IMAGE,
        ["input", "0.weight", "0", "1.weight", "1"],
    ),
    "linear": (
        lambda: nn.Sequential(nn.Linear(8, 6), nn.GELU(), nn.Linear(6, 3, bias=False)),
        (8,),
        ["input", "0.weight", "0", "1", "2.weight"],
    ),
    "linear with a vector for a weight": (
        lambda: Net(lambda m, x: m.a(x) * functional.linear(x, m.w)[..., None], a=nn.Linear(12, 3), w=vector(12)),
        SIGNAL,
        ["x", "a.weight", "a", "w", "linear", "mul"],
    ),
    "layers that are called sites and biases": (
        lambda: Net(lambda m, x: m.biases(m.sites(x)), sites=conv(4, 6, 3), biases=conv(6, 3, 1)),
        IMAGE,
        ["x", "sites.weight", "sites", "biases.weight", "biases"],
    ),
    "linear on positions": (
        lambda: Net(lambda m, x: m.b(torch.tanh(m.a(x)).mean(1)), a=nn.Linear(8, 6), b=nn.Linear(6, 3)),
        SEQUENCE,
        ["x", "a.weight", "a", "tanh", "mean", "b.weight"],
    ),
    "one ReLU used twice": (
        lambda: Net(lambda m, x: m.r(m.b(m.r(m.a(x)))), a=conv(4, 4, 3), b=conv(4, 4, 3), r=nn.ReLU(inplace=True)),
        IMAGE,
        ["x", "a.weight", "r", "b.weight", "r_1"],
    ),
    "functions": (
        lambda: Net(lambda m, x: functional.relu(m.a(x)) * torch.sigmoid(m.b(x)), a=conv(4, 4, 1), b=conv(4, 4, 1)),
        IMAGE,
        ["x", "a.weight", "relu", "b.weight", "b", "sigmoid", "mul"],
    ),
    "residual, in place": (
        lambda: Net(lambda m, x: m.a(x).add_(x).relu_(), a=conv(4, 4, 3, padding=1)),
        IMAGE,
        ["x", "a.weight", "a", "relu"],
    ),
    "two uses of a value changed in place": (
        lambda: Net(lambda m, x: _two_uses(m.a(x), x), a=conv(4, 4, 3, padding=1)),
        IMAGE,
        None,
    ),
    "a view changed in place": (
        lambda: Net(lambda m, x: _view(m, m.a(x)), a=conv(4, 4, 1), b=conv(4, 4, 1)),
        IMAGE,
        None,
    ),
    "a slice assigned": (
        lambda: Net(lambda m, x: _slice(m, m.a(x)), a=conv(4, 4, 1), bn=nn.BatchNorm2d(4), b=conv(4, 4, 1)),
        IMAGE,
        None,
    ),
    "concatenation and split": (
        lambda: Net(
            lambda m, x: m.b(torch.cat([m.a(x.chunk(2, 1)[0]), x.chunk(2, 1)[1]], 1)), a=conv(2, 2, 1), b=conv(4, 3, 1)
        ),
        IMAGE,
        ["x", "a.weight", "a", "cat", "b.weight", "b"],
    ),
    "squeeze and excite": (
        lambda: Net(
            lambda m, x: x * m.gate(m.a(functional.adaptive_avg_pool2d(x, 1))), a=conv(4, 4, 1), gate=nn.Hardsigmoid()
        ),
        IMAGE,
        ["x", "avg_pool", "a.weight", "a", "gate", "mul"],
    ),
    "activations": (
        lambda: nn.Sequential(
            conv(4, 4, 3), nn.Hardswish(), conv(4, 4, 1), nn.PReLU(4), nn.ELU(), nn.SiLU(), nn.LeakyReLU(),
            nn.Hardtanh(), nn.PReLU(), nn.Softplus(), nn.Softmax(1),
        ),
        IMAGE,
        ["input", "0.weight", "0", "1", "2.weight", "2", "3", "4", "5", "7", "8", "10"],
    ),
    "norms, upsampling, padding, dropout": (
        lambda: nn.Sequential(
            nn.ReflectionPad2d(1), conv(4, 4, 3), nn.GroupNorm(2, 4), nn.Upsample(scale_factor=2), nn.Dropout2d(),
            conv(4, 4, 1), nn.InstanceNorm2d(4), nn.PixelShuffle(2), nn.Upsample(scale_factor=2, mode="bilinear"),
        ),
        IMAGE,
        None,
    ),
    "layer norm": (
        lambda: nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 4)),
        SEQUENCE,
        ["input", "0.weight", "0", "1", "2.weight"],
    ),
    "parameters": (
        lambda: Net(_parameters, a=conv(4, 4, 1), scale=nn.Parameter(torch.randn(4, 1, 1))),
        IMAGE,
        ["x", "a.weight", "a"],
    ),
    "self-attention": (
        lambda: Net(
            lambda m, x: m.out(m.mix(x, x, x, need_weights=False)[0].mean(1)),
            mix=nn.MultiheadAttention(8, 2, batch_first=True), out=nn.Linear(8, 3),
        ),
        SEQUENCE,
        ["x", "mix.in_proj_weight", "mix", "mix_1", "mix_2", "mix_3", "mix_4", "mix.out_proj.weight", "mix_5", "mean",
         "out.weight"],
    ),
    "transformer encoder": (
        lambda: nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Linear(8, 3)),
        SEQUENCE,
        None,
    ),
    "causal attention": (
        lambda: Net(
            lambda m, x: m.out(
                functional.scaled_dot_product_attention(heads(m.q(x)), heads(m.k(x)), heads(m.v(x)), is_causal=True)
                .transpose(1, 2).flatten(2)
            ),
            q=nn.Linear(8, 8), k=nn.Linear(8, 8), v=nn.Linear(8, 8), out=nn.Linear(8, 3),
        ),
        SEQUENCE,
        ["x", "q.weight", "q", "k.weight", "k", "v.weight", "v", "mul", "matmul", "softmax", "matmul_1", "out.weight"],
    ),
    "attention with a mask of -inf": (
        lambda: Net(
            lambda m, x: torch.softmax(m.a(x) @ x.transpose(1, 2) + torch.full((5, 5), -torch.inf).triu(1), -1),
            a=nn.Linear(8, 8),
        ),
        SEQUENCE,
        ["x", "a.weight", "a", "matmul", "softmax"],
    ),
    "lstm": (
        lambda: Net(
            lambda m, x: m.out(m.mix(x)[0][:, -1]), mix=nn.LSTM(8, 4, batch_first=True), out=nn.Linear(4, 3)
        ),
        (2, 8),
        ["x", "mix.weight_ih_l0", "mix.weight_hh_l0", "mix", "out.weight"],
    ),
    "gru, both directions": (
        lambda: Net(
            lambda m, x: m.out(m.mix(x)[0][:, -1]),
            mix=nn.GRU(8, 3, batch_first=True, bidirectional=True), out=nn.Linear(6, 3),
        ),
        (2, 8),
        None,
    ),
    "no site at all": (lambda: nn.Sequential(nn.Flatten(), nn.Softplus()), IMAGE, []),
}  # fmt: skip


def _two_uses(y, x):
    z = y
    y += x
    y.relu_()
    return y * 2 + z


def _view(m, y):
    y.view(y.shape[0], -1).relu_()
    return m.b(y)


def _slice(m, y):
    y = m.bn(y)
    y[:, :2].mul_(2.0)
    y[:, 3] = 0
    return m.b(y)


def _parameters(m, x):
    return m.a(x) * m.scale + 1.0


def compare(graph, model, inputs, sizes=(1, 2, 5)):
    with torch.no_grad():
        for size in sizes:
            batch = inputs[:size]
            torch.testing.assert_close(graph(batch.clone()), model(batch.clone()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_float_graph_computes_what_the_model_computes(name, untouched):
    build, shape, sites = NETWORKS[name]
    model = build().eval()
    for module in model.modules():  # batch norms that do something
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 2)
    inputs = torch.randn(5, *shape)
    before = untouched(model)
    graph = capture(model, inputs[:2])
    compare(graph, model, inputs)
    if sites is not None:
        assert list(graph.sites.names) == sites
    assert all(site.shape[0] == 1 or name in ("self-attention", "transformer encoder")
               for site in graph.sites.activations)  # fmt: skip
    calibrate(graph, [(inputs, None)])
    with torch.no_grad():
        exact = graph(inputs)
        rounded = graph.apply(Policy.uniform(graph.sites, 8, 8))(inputs)
        assert torch.isfinite(rounded).all()
        if len(graph.sites):
            assert 0 < float((rounded - exact).abs().max()) < 0.12 * float(exact.abs().max())
        coarse = graph.apply(Policy.uniform(graph.sites, 2, 2))(inputs)
        assert coarse.shape == exact.shape
        assert torch.equal(graph.apply(FLOAT)(inputs), exact)
    assert untouched(model) == before


def test_tokens_are_left_alone_and_tables_are_weights(untouched):
    model = Net(lambda m, t: m.out(m.norm(m.table(t)).mean(1)), table=nn.Embedding(9, 4), norm=nn.LayerNorm(4),
                out=nn.Linear(4, 3)).eval()  # fmt: skip
    tokens = torch.randint(0, 9, (5, 6))
    graph = capture(model, tokens[:2])
    compare(graph, model, tokens)
    assert list(graph.sites.names) == ["table.weight", "table", "norm", "mean", "out.weight"]
    site = graph.sites["table.weight"]
    assert (site.kind, site.operation, site.shape, site.scheme.axis) == ("weight", "embedding", (9, 4), 0)
    calibrate(graph, [(tokens, None)])
    assert torch.isfinite(graph.apply(Policy.uniform(graph.sites, 4, 4))(tokens)).all()


def test_several_inputs_by_name_or_not():
    for kind in (Two, Any):
        model = kind(lambda m, x, y: m.a(x * y), a=conv(4, 2, 1)).eval()
        x, y = torch.randn(2, 3, *IMAGE).unbind()
        graph = capture(model, (x[:1], y[:1]))
        torch.testing.assert_close(graph(x, y), model(x, y), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(graph((x, y)), model(x, y), rtol=1e-5, atol=1e-6)
        assert len(graph.sites) == 5


def test_outputs_keep_their_structure():
    model = Net(lambda m, x: {"a": m.a(x), "b": [x.mean(1), m.a(x) * 2]}, a=conv(4, 2, 1)).eval()
    x = torch.randn(3, *IMAGE)
    found, expected = capture(model, x)(x), model(x)
    torch.testing.assert_close(found["a"], expected["a"])
    torch.testing.assert_close(found["b"], expected["b"])


def test_float64_models_stay_float64():
    model = nn.Sequential(conv(4, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 3)).double().eval()
    x = torch.randn(4, *IMAGE, dtype=torch.float64)
    graph = calibrate(capture(model, x[:2]), [(x, None)])
    torch.testing.assert_close(graph(x), model(x), rtol=1e-12, atol=1e-12)
    assert graph.apply(Policy.uniform(graph.sites, 4, 4))(x).dtype == torch.float64


def test_weights_changed_in_the_graph_do_not_reach_the_model(untouched):
    model = nn.Sequential(conv(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), conv(4, 2, 1)).eval()
    x = torch.randn(2, *IMAGE)
    graph = calibrate(capture(model, x), [(x, None)])
    before, outputs = untouched(model), model(x).detach()
    with torch.no_grad():
        for parameter in graph.module.parameters():
            parameter.mul_(3).add_(1)
    assert not torch.allclose(graph(x), outputs)
    assert untouched(model) == before
    torch.testing.assert_close(model(x), outputs, rtol=0, atol=0)


@pytest.mark.parametrize("quantizer", [None, "x86"])
def test_a_shared_weight_is_one_site(quantizer):
    model = Net(lambda m, x: m.a(torch.relu(m.a(x))), a=conv(4, 4, 3, padding=1)).eval()
    x = torch.randn(3, *IMAGE)
    graph = capture(model, x, quantizer)
    compare(graph, model, x, (1, 3))
    assert [s.name for s in graph.sites.weights] == ["a.weight"]
    assert [(o.name, o.right) for o in graph.sites.operations] == [("a", "a.weight"), ("a_1", "a.weight")]


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1, self.relu = conv(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        self.conv2 = conv(4, 4, 3, padding=1)

    def forward(self, x):
        return self.relu(self.conv2(self.relu(self.bn1(self.conv1(x)))) + x)


def blocks():
    return nn.Sequential(Block(), nn.Sequential(Block(), nn.AdaptiveAvgPool2d(1)), nn.Flatten(), nn.Linear(4, 3)).eval()


BLOCK_SITES = [
    "input", "0.conv1.weight", "0.relu", "0.conv2.weight", "0.conv2", "0.relu_1", "1.0.conv1.weight", "1.0.relu",
    "1.0.conv2.weight", "1.0.conv2", "1.0.relu_1", "1.1", "3.weight",
]  # fmt: skip


class TestNames:
    def test_sites_carry_module_paths_in_the_order_of_execution(self):
        graph = capture(blocks(), torch.randn(2, *IMAGE))
        assert list(graph.sites.names) == BLOCK_SITES
        assert graph.sites["1.0.conv1.weight"].module == "1.0.conv1"
        assert graph.sites["0.relu_1"].operation == "relu"
        assert graph.sites["1.1"].shape == (1, 4, 1, 1)

    def test_names_shapes_and_hash_are_the_same_from_run_to_run(self):
        model = blocks()
        first, second = capture(model, torch.randn(2, *IMAGE)), capture(model, torch.randn(2, *IMAGE))
        assert first.sites == second.sites
        assert len(first.graph_hash) == 16

    def test_the_size_of_the_example_batch_does_not_matter(self):
        model = blocks()
        assert capture(model, torch.randn(1, *IMAGE)).sites == capture(model, torch.randn(5, *IMAGE)).sites
        mix = nn.MultiheadAttention(8, 2, batch_first=True)
        attention = Net(lambda m, x: m.a(x, x, x, need_weights=False)[0], a=mix).eval()
        shapes = [capture(attention, torch.randn(n, *SEQUENCE)).sites for n in (1, 3)]
        assert shapes[0] == shapes[1]

    def test_the_hash_tells_weights_and_structure_apart(self):
        x = torch.randn(2, *IMAGE)
        model = blocks()
        original = capture(model, x).graph_hash
        with torch.no_grad():
            model[3].bias[0] += 1e-6
        assert capture(model, x).graph_hash != original
        assert capture(model, x, "x86").graph_hash != capture(model, x).graph_hash

    def test_the_hash_tells_outputs_by_their_names(self):
        """Outputs that changed their names are other outputs to a task that reads one by name."""

        class Named(torch.nn.Module):
            def __init__(self, *names):
                super().__init__()
                self.names = names

            def forward(self, x):
                return dict(zip(self.names, (x + 1, x * 2), strict=True))

        hashes = {capture(Named(*names).eval(), torch.ones(2, 3)).graph_hash for names in ("ab", "ba", "ab")}
        assert len(hashes) == 2

    def test_the_hash_is_the_same_in_another_process(self, tmp_path):
        model = nn.Sequential(conv(4, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU()).eval()
        torch.save(model, tmp_path / "model.pt")
        code = (
            "import sys, warnings, torch; warnings.simplefilter('ignore'); from bitwright.graph import capture;"
            "m = torch.load(sys.argv[1], weights_only=False);"
            f"print(capture(m, torch.zeros(3, *{IMAGE})).graph_hash)"
        )
        command = [sys.executable, "-c", code, str(tmp_path / "model.pt")]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"})
        assert done.stdout.strip() == capture(model, torch.randn(2, *IMAGE)).graph_hash


class TestCosts:
    def macs(self, model, shape):
        return {o.name: o.macs for o in capture(model.eval(), torch.randn(3, *shape)).sites.operations}

    def test_convolutions(self):
        model = nn.Sequential(
            conv(4, 6, 3, padding=1),
            conv(6, 6, 3, groups=6),
            conv(6, 8, 1, groups=2),
            nn.ConvTranspose2d(8, 3, 2, stride=2),
        )
        # outputs x inputs a group x kernel; transposed: inputs x outputs x kernel
        assert self.macs(model, IMAGE) == {
            "0": 6 * 64 * 4 * 9,
            "1": 6 * 36 * 9,
            "2": 8 * 36 * 3,
            "3": 8 * 36 * 3 * 4,
        }

    def test_linear_and_matmul(self):
        model = Net(lambda m, x: m.a(x) @ x.transpose(1, 2), a=nn.Linear(8, 8))
        assert self.macs(model, SEQUENCE) == {"a": 5 * 8 * 8, "matmul": 5 * 5 * 8}

    def test_1d(self):
        model = nn.Sequential(nn.Conv1d(4, 6, 3, stride=2), nn.ConvTranspose1d(6, 4, 3, groups=2))
        assert self.macs(model, SIGNAL) == {"0": 6 * 5 * 4 * 3, "1": 6 * 5 * 2 * 3}

    def test_operands_are_the_sites_they_read(self):
        operations = capture(blocks(), torch.randn(2, *IMAGE)).sites.operations
        assert [(o.name, o.left, o.right) for o in operations] == [
            ("0.conv1", "input", "0.conv1.weight"),
            ("0.conv2", "0.relu", "0.conv2.weight"),
            ("1.0.conv1", "0.relu_1", "1.0.conv1.weight"),
            ("1.0.conv2", "1.0.relu", "1.0.conv2.weight"),
            ("3", "1.1", "3.weight"),
        ]

    def test_other_parameters_are_what_no_site_covers(self):
        model = nn.Sequential(conv(4, 6, 3), nn.BatchNorm2d(6), nn.PReLU(6)).eval()
        graph = capture(model, torch.randn(2, *IMAGE))
        assert graph.sites.other_parameters == 6 + 6  # the folded bias and PReLU's slopes


class TestQuantizers:
    def test_weights_are_signed_per_channel_and_activations_unsigned_per_tensor(self):
        graph = capture(blocks(), torch.randn(2, *IMAGE))
        for site in graph.sites:
            scheme = site.scheme
            if site.kind == "weight":
                assert (scheme.symmetric, scheme.signed, scheme.granularity, scheme.axis) == (True, True, "channel", 0)
            else:
                assert (scheme.symmetric, scheme.signed, scheme.granularity, scheme.axis) == (
                    False,
                    False,
                    "tensor",
                    None,
                )
            assert scheme.native_bits == 8

    def test_transposed_convolutions_have_their_channels_second(self):
        graph = capture(nn.ConvTranspose2d(4, 6, 3).eval(), torch.randn(2, *IMAGE))
        assert graph.sites["weight"].scheme.axis == 1
        assert graph.quantizers["weight"].grid(4).scale.shape == (1, 6, 1, 1)

    @pytest.mark.parametrize(
        ("options", "scales"),
        [({"weight_granularity": "tensor"}, 1), ({"weight_granularity": "group", "group_size": 5}, 24)],
    )
    def test_granularity_of_weights(self, options, scales):
        model = nn.Sequential(conv(4, 3, 3), nn.ReLU()).eval()
        x = torch.randn(4, *IMAGE)
        graph = calibrate(capture(model, x[:2], edge_quantizer(**options)), [(x, None)])
        site = graph.sites["0.weight"]
        assert site.scales == graph.quantizers["0.weight"].grid(4).scale.numel() == scales
        compare(graph, model, x, (1, 4))
        with torch.no_grad():
            change = graph.apply(Policy.uniform(graph.sites, 8, 8))(x) - model(x)
        assert 0 < float(change.abs().max()) < 0.1

    def test_groups_lose_less_than_channels_and_channels_less_than_tensors(self):
        model = nn.Sequential(conv(8, 16, 3)).eval()
        with torch.no_grad():
            model[0].weight.mul_(torch.rand(16, 8, 1, 1).square() * 3)
        x = torch.randn(8, 8, 6, 6)
        errors = []
        for options in ({"weight_granularity": "group", "group_size": 9}, {}, {"weight_granularity": "tensor"}):
            graph = calibrate(capture(model, x[:2], edge_quantizer(**options)), [(x, None)], ranges="minmax")
            with torch.no_grad():
                change = graph.apply(Policy.uniform(graph.sites, weights=4))(x) - model(x)
            errors.append(float(change.square().mean()))
        assert errors[0] < errors[1] < errors[2]

    def test_symmetric_activations(self):
        graph = capture(blocks(), torch.randn(2, *IMAGE), edge_quantizer(symmetric_activations=True))
        assert all(s.scheme.signed and s.scheme.symmetric for s in graph.sites.activations)

    def test_torchaos_x86_quantizer_places_its_own_sites(self):
        model = blocks()  # their ReLU is called twice
        x = torch.randn(5, *IMAGE)
        for quantizer in ("x86", named_quantizer("x86")):
            graph = capture(model, x[:2], quantizer)
            compare(graph, model, x)
            assert [n for n in graph.sites.names if n.endswith("weight")] == [n for n in BLOCK_SITES if "weight" in n]
            assert set(graph.sites.names) < {*BLOCK_SITES, "2"}
        calibrate(graph, [(x, None)])
        with torch.no_grad():
            change = graph.apply(Policy.uniform(graph.sites, 8, 8))(x) - model(x)
        assert 0 < float(change.abs().max()) < 0.1

    def test_a_missing_backend_says_what_to_install(self):
        try:
            import executorch  # noqa: F401
        except ImportError:
            with pytest.raises(MissingExtra, match=r"'executorch' is needed.*pip install 'bitwright\[xnnpack\]'"):
                named_quantizer("xnnpack")
        else:
            graph = capture(blocks(), torch.randn(2, *IMAGE), "xnnpack")
            assert len(graph.sites.weights) == 5

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: named_quantizer("tpu"), f"quantizer must be one of {', '.join(PLACEMENTS)}.*got 'tpu'"),
            (lambda: edge_quantizer("row"), "weight_granularity must be channel, tensor or group, got 'row'"),
            (lambda: edge_quantizer("group"), "group_size must be at least 2.*got None"),
            (lambda: edge_quantizer("group", 1), "group_size must be at least 2.*got 1"),
        ],
    )
    def test_unknown_names(self, call, message):
        with pytest.raises(InvalidInput, match=message):
            call()


class TestBadInput:
    def test_a_model_in_training_mode(self):
        with pytest.raises(InvalidInput, match=r"the model is in training mode; call model.eval\(\)"):
            capture(nn.Linear(3, 2), torch.randn(2, 3))

    def test_a_part_in_training_mode(self):
        model = blocks()
        model[1][0].bn1.train()
        with pytest.raises(InvalidInput, match="module '1.0.bn1' is in training mode"):
            capture(model, torch.randn(2, *IMAGE))

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_weights_that_are_not_finite(self, value):
        model = blocks()
        with torch.no_grad():
            model[0].conv2.weight[0, 0, 0, 0] = value
        with pytest.raises(InvalidInput, match=r"the weight '0.conv2.weight' holds NaN or infinite values"):
            capture(model, torch.randn(2, *IMAGE))

    def test_names_of_modules_may_hold_markup_but_no_double_quotes(self):
        model, x = nn.Sequential().eval(), torch.randn(4, 3)
        model.add_module("</script> 'a&b'", nn.Linear(3, 2))
        torch.testing.assert_close(capture(model, x)(x), model(x))
        model.add_module('a"b', nn.ReLU())
        with pytest.raises(InvalidInput, match="names of modules must hold no double quotes"):
            capture(model, x)

    def test_a_buffer_may_be_infinite_but_not_nan(self):
        model = Net(lambda m, x: torch.softmax(m.a(x) + m.mask, -1), a=nn.Linear(8, 8)).eval()
        model.register_buffer("mask", torch.full((8, 8), -torch.inf).triu(1)[:5])
        x = torch.randn(3, *SEQUENCE)
        compare(capture(model, x), model, x, (1, 3))
        model.mask[0, 0] = torch.nan
        with pytest.raises(InvalidInput, match="the buffer 'mask' holds NaN"):
            capture(model, x)

    def test_inputs_of_the_wrong_shape(self):
        with pytest.raises(
            InvalidInput, match=r"the model does not run on example_inputs of shape \(2, 3, 8, 8\): Given"
        ):
            capture(blocks(), torch.randn(2, 3, 8, 8))

    @pytest.mark.parametrize("inputs", [torch.randn(0, *IMAGE), torch.tensor(3.0)])
    def test_inputs_without_a_sample(self, inputs):
        with pytest.raises(InvalidData, match="batch dimension with at least one sample"):
            capture(blocks(), inputs)

    @pytest.mark.parametrize("inputs", [(), None, [[1.0]], (torch.randn(2, *IMAGE), 3)])
    def test_inputs_that_are_no_tensors(self, inputs):
        with pytest.raises(InvalidInput, match="example_inputs must be a tensor, a tuple of .* or a dictionary"):
            capture(blocks(), inputs)

    def test_something_that_is_no_model(self):
        with pytest.raises(InvalidInput, match="model must be a Module or an ExportedProgram, got a function"):
            capture(lambda x: x, torch.randn(2, 3))

    def test_control_flow_on_values_names_the_module_and_line(self):
        class Branching(nn.Module):
            def forward(self, x):
                if x.sum() > 0:  # the line
                    return x
                return -x

        model = nn.Sequential(nn.Linear(3, 3), Branching()).eval()
        with pytest.raises(
            CaptureError, match=r"stopped in module '1' \(Branching\) at .*test_capture.py:\d+: "
        ) as caught:
            capture(model, torch.randn(2, 3))
        message = str(caught.value)
        assert "\n" not in message
        assert "without Python control flow on tensor values (torch.where, torch.cond)" in message
        line = int(message.split("test_capture.py:")[1].split(":")[0])
        with open(__file__, encoding="utf-8") as file:
            assert "# the line" in file.readlines()[line - 1]

    def test_a_choice_by_values_belongs_behind_the_network(self):
        def boxes(m, x):
            return m.a(x).flatten(2).transpose(1, 2)

        def thresholded(m, x):
            found = boxes(m, x)[0]
            return found[found[:, 4] > 0.5]

        def suppressed(m, x):
            found, kept = boxes(m, x)[0], []
            for i in found[:, 4].argsort().tolist():
                if all((found[i] - found[k]).abs().max() > 0.1 for k in kept):
                    kept.append(i)
            return found[kept]

        def each(m, x):
            return [found[found[:, 4] > 0.5] for found in boxes(m, x)]

        for function in (thresholded, suppressed, each):
            model = Net(function, a=nn.Conv2d(3, 5, 1)).eval()
            with pytest.raises(CaptureError, match=r"non-maximum suppression\) belongs behind the network: .*decode="):
                capture(model, torch.randn(2, 3, 4, 4))

    def test_grouped_products_in_float32_have_a_way_out(self):
        def grouped(m, x):
            ends = torch.full((3,), x.shape[0], dtype=torch.int32).cumsum(0).int()
            return torch._grouped_mm(x.flatten(0, 1), m.weight, offs=ends).unflatten(0, x.shape[:2])

        model = Net(grouped, weight=nn.Parameter(torch.randn(3, 32, 16))).eval()
        with pytest.raises(CaptureError, match=r"grouped products .* experts_implementation=\"batched_mm\""):
            capture(model, torch.randn(4, 3, 32))

    def test_a_fixed_batch_size_is_named_as_the_cause(self):
        model = Net(lambda m, x: m.a(x).reshape(2, 8), a=nn.Linear(8, 8)).eval()
        with pytest.raises(CaptureError, match=r"the code fixes the batch size: .*use x.shape\[0\] or -1 in view"):
            capture(model, torch.randn(2, 8))

    def test_a_model_that_is_random_is_refused(self):
        for size in (1.0, 5e-4):
            model = Net(lambda m, x, size=size: m.a(x) + size * torch.randn_like(x), a=nn.Linear(8, 8)).eval()
            with pytest.raises(CaptureError, match="puts out something else when it runs again"):
                capture(model, torch.randn(2, 8))

    def traced_wrongly(self, function):
        """A model whose trace computes something else."""
        model = Net(lambda m, x: function(m.a(x), torch.compiler.is_compiling()), a=nn.Linear(8, 8)).eval()
        x = torch.randn(2, 8)
        with pytest.raises(CaptureError, match="does not compute what the model computes") as caught:
            capture(model, x)
        return str(caught.value)

    def test_a_trace_that_is_a_little_off_is_refused(self):
        said = self.traced_wrongly(lambda x, traced: x * 1.0005 if traced else x)
        assert "its output differs by 0.0005 of its typical value" in said

    def test_large_values_do_not_hide_other_ones(self):
        def masked(x, traced):
            return {"plain": x, "masked": (x + 0.1 * traced).masked_fill(torch.arange(8) > 3, -1e9)}

        assert "output 'masked' differs by" in self.traced_wrongly(masked)

    def test_other_integers_and_other_infinite_values_are_noticed(self):
        assert "its output is another" in self.traced_wrongly(lambda x, t: (-x if t else x).argmax(1))
        said = self.traced_wrongly(lambda x, t: x.masked_fill(torch.arange(8) > 2 + t, float("-inf")))
        assert "its output is another" in said

    def test_a_network_that_enlarges_rounding_errors_is_judged_in_double_precision(self):
        norm = nn.BatchNorm2d(6)
        norm.running_var.uniform_(0.5, 2.0)
        model = Net(lambda m, x: torch.sin(1e5 * m.b(m.a(x))), a=conv(4, 6, 3), b=norm).eval()
        x = torch.randn(2, *IMAGE)
        graph = capture(model, x)
        with torch.no_grad():
            assert float((graph(x) - model(x)).abs().max()) > 1e-3  # as expected of float32

    def test_asymmetric_weights_are_refused(self):
        from torchao.quantization.pt2e import MinMaxObserver
        from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, QuantizationSpec, Quantizer

        class Asymmetric(Quantizer):
            def annotate(self, model):
                spec = QuantizationSpec(torch.uint8, MinMaxObserver, 0, 255, torch.per_tensor_affine)
                for node in model.graph.nodes:
                    if node.target == torch.ops.aten.linear.default:
                        inputs = {node.args[0]: spec, node.args[1]: spec}
                        node.meta["quantization_annotation"] = QuantizationAnnotation(inputs, spec, _annotated=True)
                return model

            def validate(self, model):
                pass

        with pytest.raises(CaptureError, match="asymmetric weights at 'weight'"):
            capture(nn.Linear(3, 2).eval(), torch.randn(2, 3), Asymmetric())


class TestExportedPrograms:
    def program(self, model, inputs, size=None):
        shapes = ({0: torch.export.Dim("batch", min=1)},) if size is None else None
        return torch.export.export(model, (inputs,), dynamic_shapes=shapes)

    def test_a_free_batch_size_works(self):
        model = blocks()
        x = torch.randn(5, *IMAGE)
        graph = capture(self.program(model, x), x[:2])
        compare(graph, model, x)
        assert list(graph.sites.names) == BLOCK_SITES

    def test_a_fixed_one_is_refused_with_the_way_out(self):
        x = torch.randn(3, *IMAGE)
        with pytest.raises(CaptureError, match=r"fixes the batch size of 'input' to 3; export it with dynamic_shapes"):
            capture(self.program(blocks(), x, 3), x)


ZOO = {
    "digits": ("digits_net", "digits_net", (1, 8, 8), {}),
    "lenet1": ("lenet", "lenet1", (1, 28, 28), {}),
    "lenet5": ("lenet", "lenet5", (1, 28, 28), {}),
    "nin": ("nin", "nin", (3, 32, 32), {}),
    "resnet20": ("resnet_cifar", "resnet20", (3, 32, 32), {}),
    "mobilenet_v2": ("mobilenet", "mobilenet_v2", (3, 32, 32), {}),
    "unet": ("unet", "unet", (3, 32, 32), {}),
    "resnet18": ("resnet", "resnet18", (3, 64, 64), {}),
}


@pytest.mark.parametrize("name", ZOO)
def test_the_networks_of_the_zoo(name, untouched):
    import importlib

    room, factory, shape, options = ZOO[name]
    model = getattr(importlib.import_module(f"bitwright.zoo.{room}"), factory)(**options).eval()
    x = torch.randn(2, *shape)
    before = untouched(model)
    graph = capture(model, x)
    compare(graph, model, x, (1, 2))
    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear, nn.ConvTranspose2d))]
    assert len(graph.sites.weights) == len(layers) == len(graph.sites.operations)
    names = {f"{n}.weight" for n, m in model.named_modules() if m in layers}
    assert {s.name for s in graph.sites.weights} == names
    assert untouched(model) == before


def test_a_model_in_another_precision_is_told():
    model = nn.Linear(4, 3).double().eval()
    with pytest.raises(
        InvalidInput, match=r"the model is in float64, the inputs are in float32: return model\.float\(\)"
    ):
        capture(model, torch.randn(2, 4))


def test_the_order_of_sites_is_found_in_one_walk_over_the_graph(monkeypatch):
    walks = []
    walk = torch.fx.graph._node_list.__iter__
    operations_of = sys.modules["bitwright.graph.capture"].operations_of
    monkeypatch.setattr(torch.fx.graph._node_list, "__iter__", lambda self: walks.append(1) or walk(self))

    def walked(layers):
        walks.clear()
        with monkeypatch.context() as patch:
            patch.setattr(
                sys.modules["bitwright.graph.capture"],
                "operations_of",
                lambda *given: (operations_of(*given), walks.clear())[0],
            )
            capture(nn.Sequential(*(nn.Linear(4, 4) for _ in range(layers))).eval(), torch.randn(2, 4))
        return len(walks)

    assert walked(12) == walked(3)


def test_captures_leave_nothing_behind() -> None:
    def captured() -> list[weakref.ref]:
        layers = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4))
        network = nn.Sequential(*layers).eval()
        x = torch.randn(4, 3, 6, 6)
        graph = calibrate(capture(network, x[:2]), [(x, None)])
        graph.apply(Policy.uniform(graph.sites, 8, 8))(x)
        return [weakref.ref(value) for value in (network, graph, graph.module, *graph.module.parameters())]

    left = [reference for _ in range(3) for reference in captured()]
    gc.collect()
    assert [reference() for reference in left if reference() is not None] == []
