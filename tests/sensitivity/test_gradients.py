"""Every kind of weighted operation against a loop of single-sample backward passes, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from bitwright.errors import InvalidInput
from bitwright.graph import calibrate, capture
from bitwright.sensitivity import gradients as gradients_module
from bitwright.sensitivity import per_sample
from bitwright.sensitivity.gradients import gradient_moments
from bitwright.sensitivity.rounding_errors import RoundingErrors
from norms import squared_norms


class Head(nn.Module):
    """Some layers, then three logits from the mean over positions, weighted so that no position is like another."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        y = self.layers(x).flatten(2)
        position = torch.arange(1, y.shape[-1] + 1, dtype=y.dtype)
        return (y * position).mean(-1)[:, :3]


class Last(nn.Module):
    """The same for (batch, positions, features)."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        y = self.layers(x)
        return (y * torch.arange(1, y.shape[1] + 1, dtype=y.dtype)[:, None]).mean(1)[:, :3]


IMAGE, SIGNAL, VIDEO = (4, 9, 8), (4, 11), (4, 5, 6, 4)
CONVOLUTIONS = {
    "plain": (nn.Conv2d(4, 6, 3), IMAGE),
    "grouped, strided, padded": (nn.Conv2d(4, 6, 3, groups=2, stride=2, padding=1), IMAGE),
    "depthwise, dilated": (nn.Conv2d(4, 8, 3, groups=4, dilation=2), IMAGE),
    "stride that leaves a rest": (nn.Conv2d(4, 6, (2, 3), stride=(3, 2)), IMAGE),
    "same": (nn.Conv2d(4, 6, 3, padding="same"), IMAGE),
    "same, even kernel": (nn.Conv2d(4, 6, (2, 4), padding="same"), IMAGE),
    "same, odd total": (nn.Conv2d(4, 6, (2, 3), dilation=(3, 1), padding="same"), IMAGE),
    "valid": (nn.Conv2d(4, 6, 3, padding="valid"), IMAGE),
    "circular": (nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), IMAGE),
    "no bias": (nn.Conv2d(4, 6, 1, bias=False), IMAGE),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1), IMAGE),
    "transposed, grouped, dilated": (nn.ConvTranspose2d(4, 6, 3, groups=2, dilation=2), IMAGE),
    "1d": (nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2), SIGNAL),
    "1d, same, even": (nn.Conv1d(4, 6, 4, padding="same"), SIGNAL),
    "3d": (nn.Conv3d(4, 6, (2, 3, 2), stride=(1, 2, 1), padding=1, groups=2), VIDEO),
    "3d, same, even": (nn.Conv3d(4, 6, (2, 3, 2), padding="same"), VIDEO),
    "3d, transposed": (nn.ConvTranspose3d(4, 6, 2, stride=2, groups=2, output_padding=1), VIDEO),
    "1d, transposed": (nn.ConvTranspose1d(4, 6, 3, stride=2, groups=2, padding=1, output_padding=1), SIGNAL),
}


def loss_of(outputs, n=None):
    targets = torch.arange(len(outputs)) if n is None else torch.tensor([n])
    return functional.cross_entropy(outputs, targets % outputs.shape[1], reduction="none")


def check(model, inputs, brute_norms, quantizer=None):
    """Compare all sites; returns the norms."""
    model = model.double().eval()
    inputs = tuple(v.double() if v.is_floating_point() else v for v in inputs)
    graph = capture(model, tuple(v[:2] for v in inputs), quantizer)
    (found,) = squared_norms(graph, inputs, loss_of)
    expected = brute_norms(graph, inputs, loss_of)
    assert expected.shape == (len(inputs[0]), len(graph.sites))
    # One site has none: the state of a direction that ends where it begins, when nothing else is read.
    assert int((expected.sum(0) == 0).sum()) <= 1, "sites without any gradient test nothing"
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-18)
    return graph, inputs


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name, brute_norms):
    layer, shape = CONVOLUTIONS[name]
    check(Head(layer, nn.Tanh()), (torch.randn(3, *shape),), brute_norms)


@pytest.mark.parametrize("chunk", [1, 10**9])
def test_chunks_only_bound_the_memory(chunk, brute_norms, monkeypatch):
    monkeypatch.setattr(gradients_module, "CHUNK_BYTES", chunk)
    monkeypatch.setattr(per_sample, "CHUNK_BYTES", chunk)
    check(Head(nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Conv2d(6, 3, 2)), (torch.randn(20, 4, 5, 5),), brute_norms)
    check(Last(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 3)), (torch.randn(5, 7, 4),), brute_norms)


@pytest.mark.parametrize(
    ("shape", "features", "outputs"),
    [((6,), 6, 4), ((3, 12), 12, 40), ((50, 3), 3, 3), ((2, 3, 8), 8, 20)],
    ids=["no positions", "few positions: Gram", "many positions: direct", "two position dimensions"],
)
def test_linear_layers(shape, features, outputs, brute_norms):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(features, outputs), nn.Linear(outputs, 3)

        def forward(self, x):
            y = torch.tanh(self.first(x))
            return self.second(y.flatten(1, -2).mean(1) if y.dim() > 2 else y)

    check(Net(), (torch.randn(3, *shape),), brute_norms)


class Products(nn.Module):
    """A sum of a vector and a product, a constant matrix on the left, a bilinear layer."""

    def __init__(self):
        super().__init__()
        self.bias, self.weight = nn.Parameter(torch.randn(5)), nn.Parameter(torch.randn(4, 5))
        self.mixing, self.both = nn.Parameter(torch.randn(3, 7)), nn.Bilinear(5, 4, 3)

    def forward(self, x):
        y = torch.addmm(self.bias, x.view(-1, 4), self.weight, alpha=0.5).view(-1, 7, 5).tanh()
        return self.both((self.mixing @ y).tanh(), x[:, :3]).mean(1)


def test_products_that_become_linear_layers(brute_norms):
    check(Products(), (torch.randn(3, 7, 4),), brute_norms)


@pytest.mark.parametrize("options", [{}, {"mode": "sum", "padding_idx": 2}, {"mode": "max"}])
def test_bags(options, brute_norms):
    bag = nn.EmbeddingBag(9, 6, **options)
    nn.init.normal_(bag.weight)
    check(nn.Sequential(bag, nn.Tanh(), nn.Linear(6, 3)), (torch.randint(0, 9, (4, 5)),), brute_norms)


def test_both_branches_of_the_linear_norm_agree():
    a, g = torch.randn(4, 7, 5, dtype=torch.float64), torch.randn(4, 7, 6, dtype=torch.float64)
    direct = torch.einsum("nlf,nlo->nof", a, g).square().sum((1, 2))
    wide_a, wide_g = (torch.nn.functional.pad(v, (0, 60)) for v in (a, g))  # zeros change nothing but the branch
    assert 7 * (65 + 66) < 65 * 66
    torch.testing.assert_close(per_sample.linear_norms(a, g), direct)
    torch.testing.assert_close(per_sample.linear_norms(wide_a, wide_g), direct)


class Branches(nn.Module):
    """One in-place ReLU output feeds three branches; one convolution reads what another adds up."""

    def __init__(self):
        super().__init__()
        self.stem, self.left = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.right = nn.Conv2d(4, 4, 3, padding=1)
        self.relu, self.last = nn.ReLU(inplace=True), nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.relu(self.stem(x))
        z = self.left(y) + self.right(y)
        z += y
        return self.last(z).flatten(2).mean(2)[:, :3]


@pytest.mark.parametrize("quantizer", [None, "x86"])
def test_a_value_that_feeds_several_branches(quantizer, brute_norms):
    check(Branches(), (torch.randn(3, *IMAGE),), brute_norms, quantizer)


@pytest.mark.parametrize("quantizer", [None, "x86"])
def test_in_place_activations_have_the_gradients_of_their_own_output(quantizer, brute_norms):
    layers = (
        nn.Conv2d(4, 6, 3), nn.ReLU(inplace=True), nn.Conv2d(6, 4, 1), nn.Hardswish(inplace=True),
        nn.Conv2d(4, 4, 1), nn.LeakyReLU(inplace=True), nn.BatchNorm2d(4), nn.ReLU6(inplace=True),
    )  # fmt: skip
    check(Head(*layers), (torch.randn(3, *IMAGE),), brute_norms, quantizer)


class Twice(nn.Module):
    """A convolution and a linear layer that are each used twice: gradients add up before they are squared."""

    def __init__(self):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 4)

    def forward(self, x):
        y = self.conv(torch.relu(self.conv(x))).mean((2, 3))
        return self.linear(torch.tanh(self.linear(y)))[:, :3]


@pytest.mark.parametrize("chunk", [1 << 23, 1])
def test_a_weight_that_is_used_twice_has_cross_terms(chunk, brute_norms, monkeypatch):
    monkeypatch.setattr(gradients_module, "CHUNK_BYTES", chunk)
    graph, _ = check(Twice(), (torch.randn(3, *IMAGE),), brute_norms)
    assert [s.name for s in graph.sites.weights] == ["conv.weight", "linear.weight"]


class Tokens(nn.Module):
    """An embedding whose table is also the output layer; tokens repeat within a sample."""

    def __init__(self, tied):
        super().__init__()
        self.table, self.norm = nn.Embedding(5, 4), nn.LayerNorm(4)
        self.out = nn.Linear(4, 5, bias=False)
        if tied:
            self.out.weight = self.table.weight

    def forward(self, tokens):
        y = self.norm(self.table(tokens))
        if tokens.dim() == 1:
            return self.out(y)[:, :3]
        return self.out(y * torch.arange(1.0, 1 + y.shape[1], dtype=y.dtype)[:, None]).mean(1)[:, :3]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("shape", [(3, 6), (3,)])
def test_embeddings(tied, shape, brute_norms):
    check(Tokens(tied), (torch.randint(0, 5, shape),), brute_norms)


class Positions(nn.Module):
    """Positions are looked up from a constant: their weight meets all samples at once."""

    def __init__(self):
        super().__init__()
        self.table, self.mix, self.out = nn.Embedding(6, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.out(torch.tanh(self.mix(x + self.table(torch.arange(6)))).mean(1))


def test_a_weight_that_no_input_reaches(brute_norms):
    check(Positions(), (torch.randn(3, 6, 4),), brute_norms)


class Attention(nn.Module):
    def __init__(self, batch_first):
        super().__init__()
        self.mix, self.out = nn.MultiheadAttention(8, 2, batch_first=batch_first), nn.Linear(8, 3)
        self.batch_first = batch_first

    def forward(self, x):
        x = x if self.batch_first else x.transpose(0, 1)
        y = self.mix(x, x, x, need_weights=False)[0]
        return self.out(y[:, 1] if self.batch_first else y[1])


class Recurrent(nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.mix = kind(6, 4, batch_first=True, **options)
        self.out = nn.Linear(8 if self.mix.bidirectional else 4, 3)

    def forward(self, x):
        return self.out(self.mix(x)[0][:, -1])


class Translator(nn.Module):
    """An LSTM that goes on from the last states of another one, which has two layers and runs both ways."""

    def __init__(self):
        super().__init__()
        self.read = nn.LSTM(6, 4, num_layers=2, bidirectional=True)
        self.write, self.out = nn.LSTM(6, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        hidden, cells = self.read(x.transpose(0, 1))[1]
        return self.out(self.write(x[:, :2], (hidden.sum(0, keepdim=True), cells.sum(0, keepdim=True)))[0][:, -1])


class Merged(nn.Module):
    """Positions and samples in one dimension, in either order."""

    def __init__(self, samples_first):
        super().__init__()
        self.first, self.second = nn.Linear(6, 5), nn.Linear(5, 3)
        self.samples_first = samples_first

    def forward(self, x):
        n, length, features = x.shape
        x = x if self.samples_first else x.transpose(0, 1)
        y = torch.relu(self.first(x.reshape(n * length, features)))
        y = y.view(n, length, 5) if self.samples_first else y.view(length, n, 5).transpose(0, 1)
        return self.second(y[:, 0] * y[:, 2])


class Frames(nn.Module):
    """Each sample is several images."""

    def __init__(self):
        super().__init__()
        self.conv, self.out = nn.Conv2d(2, 4, 3), nn.Linear(4, 3)

    def forward(self, x):
        n, frames = x.shape[:2]
        y = torch.relu(self.conv(x.flatten(0, 1))).mean((2, 3)).view(n, frames, 4)
        return self.out(y[:, 0] - y[:, -1])


class Windows(nn.Module):
    """Images cut into windows, as in Swin: (N * windows, positions, features)."""

    def __init__(self):
        super().__init__()
        self.mix, self.out = nn.Linear(3, 4), nn.Linear(4, 3)

    def forward(self, x):
        n = x.shape[0]
        y = x.view(n, 3, 2, 2, 2, 2).permute(0, 2, 4, 3, 5, 1).reshape(-1, 4, 3)
        y = torch.tanh(self.mix(y)).view(n, 4, 4, 4)
        return self.out(y[:, 1, 2] * y[:, 3, 0])


SEQUENCE = (5, 8)
SHAPES = {Attention: SEQUENCE, Translator: (3, 6)}
ELSEWHERE = {
    "attention": (lambda: Attention(True), SEQUENCE),
    "attention, positions first": (lambda: Attention(False), SEQUENCE),
    "lstm": (lambda: Recurrent(nn.LSTM), (3, 6)),
    "gru": (lambda: Recurrent(nn.GRU), (3, 6)),
    "rnn, both directions": (lambda: Recurrent(nn.RNN, bidirectional=True), (3, 6)),
    "relu rnn without biases": (lambda: Recurrent(nn.RNN, bias=False, nonlinearity="relu"), (3, 6)),
    "gru of two layers": (lambda: Recurrent(nn.GRU, num_layers=2, bidirectional=True), (3, 6)),
    "translator": (Translator, (3, 6)),
    "merged, samples first": (lambda: Merged(True), (4, 6)),
    "merged, positions first": (lambda: Merged(False), (4, 6)),
    "frames": (Frames, (3, 2, 6, 6)),
    "windows": (Windows, (3, 4, 4)),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_samples_that_are_not_the_first_dimension(name, brute_norms):
    build, shape = ELSEWHERE[name]
    check(build(), (torch.randn(3, *shape),), brute_norms)


@pytest.mark.parametrize("name", ["merged, samples first", "merged, positions first", "windows"])
def test_as_many_samples_as_positions(name, brute_norms):
    """Sizes alone would not tell the two apart."""
    build, shape = ELSEWHERE[name]
    check(build(), (torch.randn(4, *shape),), brute_norms)


def test_layouts_hold_for_batches_of_any_size(brute_norms):
    graph, (inputs,) = check(Attention(True), (torch.randn(4, *SEQUENCE),), brute_norms)
    for size in (1, 2, 7):
        batch = torch.randn(size, *SEQUENCE, dtype=torch.float64)
        torch.testing.assert_close(
            squared_norms(graph, (batch,), loss_of)[0], brute_norms(graph, (batch,), loss_of), rtol=1e-10, atol=1e-18
        )


def test_samples_that_are_mixed_are_refused():
    class Mixing(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x):
            y = self.first(x.reshape(x.shape[0] * 2, 2).repeat(1, 2))
            return self.second(y.mean(0, keepdim=True) + y.view(x.shape[0], 2, 4).mean(1))

    graph = capture(Mixing().double().eval(), torch.randn(3, 4, dtype=torch.float64))
    with pytest.raises(InvalidInput, match="the samples of a batch are mixed at site"):
        squared_norms(graph, (torch.randn(4, 4, dtype=torch.float64),), loss_of)


@pytest.mark.parametrize("build", [Branches, Twice, Translator, lambda: Attention(True), lambda: Tokens(True)])
def test_products_are_gradients_times_rounding_errors(build, brute_products):
    model = build().double().eval()
    if isinstance(model, Tokens):
        inputs = torch.randint(0, 5, (4, 6))
    else:
        inputs = torch.randn(4, *SHAPES.get(type(model), IMAGE), dtype=torch.float64)
    graph = calibrate(capture(model, inputs[:2]), [(inputs, None)])
    bits = (2, 5)
    (found,) = gradient_moments(graph, (inputs,), [loss_of], RoundingErrors(graph, bits))
    expected = brute_products(graph, (inputs,), loss_of, bits)
    torch.testing.assert_close(found.products, expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("length", [1, 3, 40], ids="{} positions".format)
def test_products_of_linear_layers_hold_for_short_and_long_sequences(length, brute_products, brute_norms):
    model = Last(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 4)).double().eval()
    inputs = torch.randn(5, length, 7, dtype=torch.float64)
    graph = calibrate(capture(model, inputs[:2]), [(inputs, None)])
    bits = (2, 5, 8)
    (found,) = gradient_moments(graph, (inputs,), [loss_of], RoundingErrors(graph, bits))
    torch.testing.assert_close(found.squares, brute_norms(graph, (inputs,), loss_of), rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(found.products, brute_products(graph, (inputs,), loss_of, bits), rtol=1e-9, atol=1e-15)


def test_two_scores_at_once_give_what_each_gives_alone():
    model = Branches().double().eval()
    inputs = torch.randn(3, *IMAGE, dtype=torch.float64)
    graph = capture(model, inputs[:2])
    both = squared_norms(graph, (inputs,), loss_of, lambda outputs: outputs[:, 0])
    torch.testing.assert_close(both[0], squared_norms(graph, (inputs,), loss_of)[0], rtol=0, atol=0)
    torch.testing.assert_close(both[1], squared_norms(graph, (inputs,), lambda o: o[:, 0])[0], rtol=0, atol=0)


def test_nothing_accumulates():
    model = Branches().eval()
    inputs = torch.randn(4, *IMAGE)
    graph = capture(model, inputs[:2])
    first, second = (squared_norms(graph, (inputs,), loss_of)[0] for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert all(p.grad is None and not p.requires_grad for p in graph.module.parameters())
    assert all(p.grad is None for p in model.parameters())


def test_the_split_into_batches_does_not_matter():
    model = Branches().double().eval()
    inputs = torch.randn(6, *IMAGE, dtype=torch.float64)
    graph = capture(model, inputs[:2])

    def score(outputs):
        return outputs.square().sum(1)

    (whole,) = squared_norms(graph, (inputs,), score)
    parts = torch.cat([squared_norms(graph, (part,), score)[0] for part in inputs.split(4)])
    torch.testing.assert_close(parts, whole, rtol=1e-10, atol=1e-18)


def test_float32_comes_within_a_10000th_of_float64(brute_norms):
    model = Branches().eval()
    inputs = torch.randn(8, *IMAGE)
    (found,) = squared_norms(capture(model, inputs[:2]), (inputs,), loss_of)
    exact = capture(model.double(), inputs[:2].double())
    torch.testing.assert_close(found, brute_norms(exact, (inputs.double(),), loss_of), rtol=1e-4, atol=1e-10)
