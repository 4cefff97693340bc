"""Recurrent layers: one site for each weight, whatever the number of steps, and every step counted."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bitwright.cost import Bops
from bitwright.graph import calibrate, capture
from bitwright.graph.coverage import STATE
from bitwright.graph.pt2e import quiet
from bitwright.graph.recurrent import Whole
from bitwright.values import FLOAT, Policy

KINDS = {
    "lstm": (nn.LSTM, 4, {}),
    "gru": (nn.GRU, 3, {}),
    "rnn": (nn.RNN, 1, {}),
    "relu rnn": (nn.RNN, 1, {"nonlinearity": "relu"}),
    "lstm, no biases": (nn.LSTM, 4, {"bias": False}),
    "gru, two layers": (nn.GRU, 3, {"num_layers": 2}),
    "lstm, both directions": (nn.LSTM, 4, {"bidirectional": True}),
    "gru, two layers in both directions": (nn.GRU, 3, {"num_layers": 2, "bidirectional": True}),
}


class Classifier(nn.Module):
    """Tokens, a recurrent layer, a linear layer on what ``read`` takes of its results."""

    def __init__(self, kind, read=lambda output, _: output[:, -1], batch_first=True, **options):
        super().__init__()
        self.table = nn.Embedding(20, 6)
        self.rnn = kind(6, 4, batch_first=batch_first, **options)
        self.out = nn.LazyLinear(3)
        self.read = read

    def forward(self, tokens):
        x = self.table(tokens)
        if self.rnn.batch_first:
            return self.out(self.read(*self.rnn(x)))
        output, state = self.rnn(x.transpose(0, 1))
        return self.out(self.read(output.transpose(0, 1), state))


def built(kind, steps=7, **options):
    torch.manual_seed(0)
    model, tokens = Classifier(kind, **options).eval(), torch.randint(20, (16, steps))
    expected = model(tokens).detach()
    graph = capture(model, tokens[:2])
    torch.testing.assert_close(graph(tokens), expected, rtol=0, atol=1e-6)
    return calibrate(graph, [(tokens, None)]), tokens, expected


@pytest.mark.parametrize("name", KINDS)
def test_weights_are_sites_of_the_layer_and_every_step_counts(name):
    kind, gates, options = KINDS[name]
    graphs = {steps: built(kind, steps, **options)[0] for steps in (1, 7, 30)}
    names = graphs[7].sites.names
    assert all(graph.sites.names == names for graph in graphs.values())
    layers, directions = options.get("num_layers", 1), 2 if options.get("bidirectional") else 1
    suffixes = [f"l{i}{end}" for i in range(layers) for end in ("", "_reverse")[:directions]]
    expected = {f"rnn.weight_{part}_{suffix}" for suffix in suffixes for part in ("ih", "hh")}
    assert {site.name for site in graphs[7].sites.weights} == {"table.weight", "out.weight", *expected}
    assert [site.name for site in graphs[7].sites.activations] == [
        "table",
        *(f"rnn_{i}" if i else "rnn" for i in range(layers)),
    ]
    for steps, graph in graphs.items():
        inputs = sum(6 if i == 0 else 4 * directions for i in range(layers)) * directions
        states = 4 * layers * directions
        by_kind = {"linear": steps * gates * 4 * inputs + 4 * directions * 3}
        by_kind[kind.__name__.lower()] = steps * gates * 4 * states
        assert sum(op.macs for op in graph.sites.operations) == sum(by_kind.values())
        for entry in graph.coverage.left_out:
            assert (entry.kind, entry.reason, entry.weights) == (kind.__name__.lower(), STATE, 0)
        assert sum(entry.macs for entry in graph.coverage.left_out) == by_kind[kind.__name__.lower()]
        bops = Bops().of(Policy.uniform(graph.sites, 4, 8), graph.sites)
        assert bops == 4 * 8 * by_kind["linear"] + 4 * 32 * by_kind[kind.__name__.lower()]


@pytest.mark.parametrize("name", KINDS)
def test_the_simulation_is_the_layer_of_torch_with_rounded_weights(name):
    kind, _, options = KINDS[name]
    graph, tokens, expected = built(kind, **options)
    weights = {site.name: 3 for site in graph.sites.weights if site.name.startswith("rnn")}
    rounded = Classifier(kind, **options).eval()
    rounded(tokens)
    torch.manual_seed(0)
    with torch.no_grad():
        rounded.load_state_dict({n.removeprefix("module."): v for n, v in _state(graph).items()})
        for site in weights:
            parameter = rounded.get_parameter(site)
            parameter.copy_(graph.quantizers[site].rounded(3))
        found = graph.apply(Policy(weights))(tokens)
        torch.testing.assert_close(found, rounded(tokens), rtol=0, atol=1e-6)
        assert not torch.allclose(found, expected, atol=1e-3)
        assert torch.equal(graph.apply(FLOAT)(tokens), graph.apply(FLOAT)(tokens))


def _state(graph):
    weights = {site.name: graph.weight(site.name) for site in graph.sites.weights}
    return {**{n: p for n, p in graph.module.named_parameters() if not n.startswith(("sites.", "biases."))}, **weights}


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize(
    "read",
    [
        lambda _, state: state[-1],
        lambda _, state: torch.cat([state[-2], state[-1]], 1),
        lambda _, state: state.transpose(0, 1).flatten(1),
        lambda output, _: output.mean(1),
    ],
    ids=["the last state", "both directions", "all last states", "mean of all states"],
)
def test_whatever_is_read_is_what_torch_gives(read, batch_first):
    graph, tokens, expected = built(nn.GRU, read=read, num_layers=2, bidirectional=True, batch_first=batch_first)
    found = graph.apply(Policy.uniform(graph.sites, 8, 8))(tokens)
    assert 0 < float((found - expected).abs().max()) < 0.05


def test_states_that_are_given_are_taken():
    class Continued(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.LSTM(6, 4, batch_first=True)
            self.first = nn.Parameter(torch.randn(1, 1, 4))

        def forward(self, x, cell):
            return self.rnn(x, (self.first.expand(1, x.shape[0], 4).contiguous(), cell.unsqueeze(0)))[0]

    torch.manual_seed(0)
    model, inputs = Continued().eval(), (torch.randn(3, 5, 6), torch.randn(3, 4))
    graph = capture(model, inputs)
    torch.testing.assert_close(graph(*inputs), model(*inputs), rtol=0, atol=1e-6)
    assert graph.sites.names == ("x", "rnn.weight_ih_l0", "rnn.weight_hh_l0")


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_a_layer_with_projections_is_unrolled():
    graph, _, _ = built(nn.LSTM, proj_size=2)
    assert graph.coverage.weights == graph.coverage.all_weights
    assert sum(op.right == "rnn.weight_hr_l0" for op in graph.sites.operations) == 7


class Loop(nn.Module):
    """A recurrent layer as a loop over time steps."""

    def __init__(self, steps):
        super().__init__()
        self.cell, self.out, self.steps = nn.LSTMCell(5, 4), nn.Linear(4, 3), steps

    def forward(self, x):
        state = torch.zeros(x.shape[0], 4), torch.zeros(x.shape[0], 4)
        for step in range(self.steps):
            state = self.cell(x[:, step], state)
        return self.out(state[0])


def test_a_loop_over_cells_is_foretold_to_be_slow():
    with pytest.warns(UserWarning, match=r"^17 operations read the weight 'cell.weight_ih', and 1 more .* nn.LSTM"):
        graph = capture(Loop(17).eval(), torch.randn(2, 17, 5))
    assert graph.coverage.repeated == (("cell.weight_ih", 17), ("cell.weight_hh", 16))
    assert graph.coverage.sentences()[-1:] == graph.coverage.slow() != ()


def test_a_layer_with_projections_is_foretold_to_be_slow():
    class Projected(nn.LSTM):
        def forward(self, x):
            return super().forward(x)[0]

    with pytest.warns(UserWarning, match=r"operations read the weight .* without proj_size, is one operation"):
        capture(Projected(4, 6, proj_size=3, batch_first=True).eval(), torch.randn(2, 17, 4))


def test_few_uses_of_a_weight_are_no_loop():
    graph = capture(Loop(15).eval(), torch.randn(2, 16, 5))
    assert graph.coverage.slow() == graph.coverage.repeated == ()
    assert built(nn.LSTM, 64)[0].coverage.repeated == ()


def test_exported_programs_are_captured_as_their_models_are():
    torch.manual_seed(0)
    model, tokens = Classifier(nn.LSTM, num_layers=2, bidirectional=True).eval(), torch.randint(20, (4, 3))
    expected = model(tokens)
    with quiet():
        program = torch.export.export(model, (tokens,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    graph = capture(program, tokens)
    torch.testing.assert_close(graph(tokens), expected, rtol=0, atol=1e-6)
    assert graph.sites.names == capture(model, tokens).sites.names


def test_tracing_leaves_the_number_of_steps_free():
    """PyTorch's own tracing runs every step, and fixes their number."""
    program = _traced(nn.LSTM(6, 4, batch_first=True).eval(), torch.randn(2, 40, 6))
    assert sum("whole_lstm" in str(node.target) for node in program.graph.nodes) == 1
    assert sum(node.op == "call_function" for node in program.graph.nodes) < 10


def _traced(model, x):
    with quiet(), Whole(), torch.no_grad():
        return torch.export.export(
            model, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC},)
        )


class Reader(nn.Module):
    """A recurrent layer deep in a network of the user's."""

    def __init__(self, kind):
        super().__init__()
        self.table = nn.Embedding(20, 6)
        self.reader = nn.ModuleDict({"words": kind(6, 4, 2, batch_first=True, bidirectional=True)})
        self.head = nn.Linear(8, 2)

    def forward(self, tokens):
        return self.head(self.reader["words"](self.table(tokens))[0][:, -1])


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_sites_carry_the_users_names_where_an_export_was_decomposed_into_steps(kind):
    torch.manual_seed(0)
    model, tokens = Reader(kind).eval(), torch.randint(20, (8, 3))
    with quiet():
        exported = torch.export.export(model, (tokens[:2],), dynamic_shapes=({0: torch.export.Dim("batch", min=2)},))
        decomposed = exported.run_decompositions()
    assert len(decomposed.graph.nodes) > 3 * len(exported.graph.nodes)
    graph = capture(decomposed, tokens[:2])
    torch.testing.assert_close(graph(tokens), model(tokens), rtol=0, atol=1e-6)
    owners = ("table", "reader.words", "head")
    assert all(name.startswith(owners) for name in graph.sites.names)
