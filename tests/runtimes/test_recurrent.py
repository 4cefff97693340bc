"""Recurrent layers in ONNX: one operator of the runtime for each layer and direction, its weights integers."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from bitwright.graph import calibrate, capture
from bitwright.graph.pt2e import edge_quantizer
from bitwright.runtimes import export
from bitwright.runtimes.onnxruntime import Session
from bitwright.values import FLOAT, Policy


class Tagger(nn.Module):
    """A recurrent layer of which ``read`` takes what it wants, and a linear layer."""

    def __init__(self, kind, read=lambda output, _: output, size=12, **options):
        super().__init__()
        self.table = nn.Embedding(30, 10)
        self.rnn = kind(10, size, batch_first=True, **options)
        self.out = nn.LazyLinear(4)
        self.read = read

    def forward(self, tokens):
        return self.out(self.read(*self.rnn(self.table(tokens))))


class Translator(nn.Module):
    """Goes on from both last states of another layer, and from a state that is learned."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(30, 10)
        self.read, self.write = nn.LSTM(10, 12, batch_first=True), nn.LSTM(10, 12, batch_first=True)
        self.more, self.start = nn.GRU(12, 8, batch_first=True), nn.Parameter(torch.randn(1, 1, 8))
        self.out = nn.Linear(8, 4)

    def forward(self, tokens):
        x = self.table(tokens)
        x, _ = self.write(x, self.read(x)[1])
        return self.out(self.more(x, self.start.repeat(1, x.shape[0], 1))[0])


MODELS = {
    "lstm": lambda: Tagger(nn.LSTM),
    "gru": lambda: Tagger(nn.GRU),
    "rnn": lambda: Tagger(nn.RNN),
    "relu rnn, no biases": lambda: Tagger(nn.RNN, nonlinearity="relu", bias=False),
    "gru, two layers in both directions": lambda: Tagger(nn.GRU, num_layers=2, bidirectional=True),
    "lstm, last cell states": lambda: Tagger(
        nn.LSTM, lambda _, state: state[1].transpose(0, 1).flatten(1), bidirectional=True
    ),
    "translator": Translator,
}


def built(build, quantizer=None):
    torch.manual_seed(0)
    model, tokens = build().eval(), torch.randint(30, (64, 9))
    model(tokens)
    return calibrate(capture(model, tokens[:2], quantizer), [(tokens, None)]), tokens


@pytest.mark.parametrize(("name", "bits"), [*((name, 4) for name in MODELS), ("translator", 16), ("lstm", None)])
def test_files_compute_what_the_simulation_computes(name, bits, tmp_path):
    graph, tokens = built(MODELS[name])
    policy = FLOAT if bits is None else Policy.uniform(graph.sites, bits, max(bits, 8))
    export(graph, tmp_path / "model.onnx", policy=policy)
    operations = Counter(node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node)
    layers = sum(".weight_hh" in site.name for site in graph.sites.weights)
    assert sum(operations[name] for name in ("LSTM", "GRU", "RNN")) == layers
    assert not {"Loop", "Scan", "SequenceMap", "Recurrence"} & set(operations)
    with graph.applied(policy), torch.no_grad():
        expected = graph(tokens)
    for optimised in (False, True):
        (found,) = Session(tmp_path / "model.onnx", optimised)(tokens)
        error = np.abs(found - expected.numpy())
        # The last bits of a state can lead to the next point of a grid; nothing else differs.
        assert np.mean(error > 1e-5) <= {4: 0.01, 16: 0.2, None: 0}[bits]
        assert error.max() < 0.05 * expected.abs().max()


@pytest.mark.parametrize(
    ("quantizer", "bits"), [(None, 8), (None, 4), ("edge-tensor", 8), ("groups", 4), ("dynamic", 8)]
)
def test_weights_are_stored_as_integers_that_the_runtime_makes_constant(quantizer, bits, tmp_path):
    placer = edge_quantizer("group", 8) if quantizer == "groups" else quantizer
    graph, tokens = built(lambda: Tagger(nn.GRU, size=64), placer)
    policy = Policy.uniform(graph.sites, bits, 8)
    result = export(graph, tmp_path / "model.onnx", policy=policy)
    stored = {t.name: t for t in onnx.load(result.path).graph.initializer}
    for name in ("rnn.weight_ih_l0", "rnn.weight_hh_l0"):
        assert onnx.TensorProto.DataType.Name(stored[f"{name}.integers"].data_type) == f"INT{bits}"
    assert result.bytes < (0.35 if quantizer != "groups" else 0.6) * result.float_bytes
    Session(result.path, optimised_path=tmp_path / "optimised.onnx")
    loaded = onnx.load(tmp_path / "optimised.onnx").graph
    (operator,) = (node for node in loaded.node if node.op_type == "GRU")
    assert set(operator.input[1:4]) <= {t.name for t in loaded.initializer}, "made anew in every run"
    with graph.applied(policy), torch.no_grad():
        expected = graph(tokens).numpy()
    assert np.mean(np.abs(Session(result.path)(tokens)[0] - expected) > 1e-5) < 0.01


def test_corrected_biases_are_in_the_file(tmp_path):
    from bitwright.repair import bias_correction

    graph, tokens = built(lambda: Tagger(nn.GRU, bias=False))
    policy = Policy.uniform(graph.sites, 3, 8)
    with graph.applied(policy), torch.no_grad():
        before = graph(tokens)
    bias_correction(graph, [(tokens, None)], policy)
    export(graph, tmp_path / "model.onnx", policy=policy)
    with graph.applied(policy), torch.no_grad():
        expected = graph(tokens)
    assert float((expected - before).abs().max()) > 1e-3
    assert np.mean(np.abs(Session(tmp_path / "model.onnx")(tokens)[0] - expected.numpy()) > 1e-5) < 0.01


def test_sequences_of_any_length(tmp_path):
    torch.manual_seed(0)
    model, tokens = (
        Tagger(nn.LSTM, lambda output, _: output.mean(1), bidirectional=True).eval(),
        torch.randint(30, (8, 9)),
    )
    model(tokens)
    graph = capture(model, tokens, others=[tokens[:, :5]])
    calibrate(graph, [(tokens, None), (tokens[:, :5], None)])
    policy = Policy.uniform(graph.sites, 8, 8)
    export(graph, tmp_path / "model.onnx", policy=policy)
    session = Session(tmp_path / "model.onnx", False)
    for length in (1, 4, 30):
        other = torch.randint(30, (3, length))
        with torch.no_grad():
            torch.testing.assert_close(graph.apply(FLOAT)(other), model(other), rtol=0, atol=1e-6)
            expected = graph.apply(policy)(other).numpy()
        assert np.mean(np.abs(session(other)[0] - expected) > 1e-5) < 0.1
