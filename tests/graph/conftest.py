from __future__ import annotations

import hashlib

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import bitwright as bw
from bitwright.graph.graph import Graph


def fingerprint(model):
    """Identifies every parameter and buffer of a model, bit for bit, and which objects they are."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict(keep_vars=True).items():
        digest.update(f"{name}{id(tensor)}{tensor.requires_grad}{tensor.grad is None}".encode())
        digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    digest.update(str([(n, m.training, type(m)) for n, m in model.named_modules()]).encode())
    return digest.hexdigest()


@pytest.fixture
def untouched():
    return fingerprint


class Branches(nn.Module):
    """Two branches of different length, a concatenation that shares one grid, a residual sum, a layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.short = nn.Conv2d(3, 4, 1)
        self.long1 = nn.Conv2d(3, 6, 3, padding=1)
        self.long2 = nn.Conv2d(6, 4, 3, padding=1)
        self.twice = nn.Conv2d(8, 8, 3, padding=1)
        self.relu = nn.ReLU()
        self.linear = nn.Linear(8, 5)

    def forward(self, x):
        y = torch.cat([self.short(x), self.long2(self.relu(self.long1(x)))], 1)
        y = self.relu(self.twice(y)) + y
        y = self.relu(self.twice(y))
        return self.linear(y.mean((2, 3)))


class Recurrent(nn.Module):
    """A linear layer on the states of an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 6, batch_first=True)
        self.linear = nn.Linear(6, 3)

    def forward(self, x):
        return self.linear(self.lstm(x)[0][:, -1])


class Stream(nn.Module):
    """A residual stream: additions that are linked, so that their sites choose their steps together."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Conv2d(6, 6, 3, padding=1) for _ in range(4))
        self.linear = nn.Linear(6, 4)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        for scale, block in zip((0.05, 0.5, 2.0, 9.0), self.blocks, strict=True):
            x = torch.relu(block(x) * scale + x)
        return self.linear(x.mean((2, 3)))


class Several(nn.Module):
    """Two inputs, several values of one operation, a constant that is computed, a dictionary of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(4, 8))
        self.first = nn.Linear(8, 8)
        self.second = nn.Linear(4, 4)

    def forward(self, x, y):
        left, right = (self.first(x * y) + self.position.exp()).chunk(2, -1)
        return {"sum": self.second(left) + right, "both": [self.second(right), (left.amax(1), left.size(0))]}


NETWORKS = {
    "branches": (Branches, [(3, 8, 8)]),
    "recurrent": (Recurrent, [(4, 5)]),
    "stream": (Stream, [(3, 6, 6)]),
    "several": (Several, [(4, 8), (4, 8)]),
}


@pytest.fixture(scope="session")
def built():
    """A function: one of these networks, captured and calibrated, and the inputs of some batches."""

    def build(name, batches=1, size=6):
        torch.manual_seed(1)
        make, shapes = NETWORKS[name]
        data = [tuple(torch.randn(size, *shape) for shape in shapes) for _ in range(batches)]
        graph = bw.capture(make().eval(), data[0])
        return bw.calibrate(graph, [(inputs, None) for inputs in data]), data

    return build


@pytest.fixture
def _beyond_torch():
    """For tests of networks in which torch counts too little."""


@pytest.fixture(autouse=True)
def _everything_is_counted(monkeypatch, request):
    """Every graph that a test of this room captures counts what torch counts, and all of its parameters."""
    if "_beyond_torch" in request.fixturenames:
        return
    create = Graph.__init__
    monkeypatch.setattr(Graph, "__init__", lambda graph, *given: create(graph, *given) or assert_counted(graph))


def assert_counted(graph):
    """The multiply-accumulates are half of torch's floating-point operations, and each parameter is counted once."""
    inputs, sites, coverage = graph.example_inputs, graph.sites, graph.coverage
    with graph.applied(bw.FLOAT), FlopCounterMode(display=False) as counter, torch.no_grad():
        graph.module(*inputs)
    # Rounded down as a whole, for networks that make something once for a batch.
    assert counter.get_total_flops() // 2 // len(inputs[0]) == sum(op.macs for op in sites.operations)
    parameters = {id(p): p for p in [*graph.module.parameters(), *(graph.weight(s.name) for s in sites.weights)]}
    total = sum(p.numel() for p in parameters.values())
    assert sum(site.numel for site in sites.weights) + sites.other_parameters == total
    wide = sum(p.numel() for p in parameters.values() if sum(size > 1 for size in p.shape) > 1)
    narrow = sum(s.numel for s in sites.weights if sum(size > 1 for size in s.shape) < 2)
    assert coverage.all_weights == wide + narrow
    left = sum(entry.macs for entry in coverage.left_out)
    assert coverage.macs + left == coverage.all_macs
