"""Scores that cannot mislead: on networks of several kinds no harm rises with bits, whatever the method."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from bitwright.graph import calibrate, capture
from bitwright.sensitivity import METHODS, sensitivities
from bitwright.values import Policy

BITS = (2, 3, 4, 8)


class Outlier(nn.Module):
    """A residual connection and a layer norm behind a linear layer of which one channel is far off."""

    def __init__(self):
        super().__init__()
        self.mix, self.norm, self.head = nn.Linear(16, 16), nn.LayerNorm(16), nn.Linear(16, 4)
        with torch.no_grad():
            self.mix.bias[3] += 40
            self.head.weight *= 3

    def forward(self, x):
        return self.head(self.norm(x + self.mix(x)))


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.block(x).mean(1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix, self.head = nn.GRU(6, 8, batch_first=True), nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.mix(x)[0][:, -1])


class Words(nn.Module):
    """A language model: logits of the next word at each position."""

    def __init__(self):
        super().__init__()
        self.words, self.mix, self.head = nn.Embedding(12, 8), nn.Linear(8, 8), nn.Linear(8, 12)

    def forward(self, tokens):
        x = self.words(tokens)
        return self.head(x + torch.relu(self.mix(x)))


def convolutions(groups):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Hardswish(),
        nn.Conv2d(8, 8, 3, groups=groups), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip


NETWORKS = {
    "plain": (lambda: convolutions(1), (3, 8, 8), "classification"),
    "depthwise": (lambda: convolutions(8), (3, 8, 8), "classification"),
    "layer norm with an outlier": (Outlier, (16,), "classification"),
    "transformer block": (Transformer, (5, 8), "classification"),
    "recurrent": (Recurrent, (4, 6), "classification"),
    "language": (Words, (6,), "language"),
}


@pytest.fixture(params=NETWORKS)
def scored(request):
    """Tables of all methods that the network can have."""
    build, shape, task = NETWORKS[request.param]
    model = build().eval()
    inputs = torch.randint(0, 12, (24, *shape)) if task == "language" else torch.randn(24, *shape)
    with torch.no_grad():
        targets = model(inputs).argmax(-1) if task == "language" else torch.randint(0, 4, (24,))
    batches = [(inputs, targets)]
    graph = calibrate(capture(model, inputs[:2]), batches)
    left = () if task == "classification" else ("margin-fit", "one-site-primary")  # which this task does not have
    names = [name for name in METHODS if name not in left]
    return graph, sensitivities(graph, batches, names, BITS, task=task)


def test_no_harm_rises_with_bits(scored):
    graph, tables = scored
    for table in tables:
        assert (table.harm[:, :-1] >= table.harm[:, 1:]).all(), table.method
        assert set(table.doubts) <= set(table.sites)
        assert bool(table.doubts) == any("not trusted" in note for note in table.notes)
        for site in table.sites:
            alone = [table.predict(Policy({site: bits})) for bits in BITS]
            np.testing.assert_allclose(alone, table.harm[table.row(site)], rtol=1e-6)
        around = table.linearized(Policy.uniform(graph.sites, 3, 4)).harm
        assert (around[:, :-1] >= around[:, 1:]).all(), table.method
