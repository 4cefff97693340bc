"""Small random graphs, and the answer by trying every policy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from bitwright.cost import costs_for
from bitwright.values import Operation, Policy, Scheme, SensitivityTable, Site, Sites

MODELS = costs_for()


def make_sites(rng: np.random.Generator, operations: int, most: int = 7) -> Sites:
    """Operations over weights and activations: shared inputs, matmuls, squares, operands without a site."""
    sites: list[Site] = []
    found: list[Operation] = []
    activations: list[str] = []
    for i in range(operations):
        if not activations or rng.random() < 0.5:
            name = f"act{i}"
            activations.append(name)
            sites.append(Site(name, "activation", (1, int(rng.integers(1, 50)))))
        left = activations[int(rng.integers(len(activations)))]
        macs = int(rng.integers(1, 2000))
        kind = rng.random()
        if kind < 0.6 and len(sites) < most:
            right: str | None = f"w{i}"
            shape = (int(rng.integers(1, 9)), int(rng.integers(1, 60)))
            scheme = Scheme(symmetric=bool(rng.random() < 0.5), granularity="channel", axis=0)
            sites.append(Site(f"w{i}", "weight", shape, scheme))
            found.append(Operation(f"op{i}", "linear", macs, left, right))
        elif kind < 0.8:
            right = activations[int(rng.integers(len(activations)))]
            found.append(Operation(f"op{i}", "matmul", macs, left, right))
        else:
            found.append(Operation(f"op{i}", "conv2d", macs, left if kind < 0.9 else None, None))
    return Sites(tuple(sites), tuple(found), "graph", int(rng.integers(0, 30)))


def make_table(rng: np.random.Generator, sites: Sites, bits: tuple[int, ...], style: str = "decay") -> SensitivityTable:
    """Harms that decay with bits, noisy ones of both signs, small whole numbers with many ties, or zeros."""
    shape = (len(sites), len(bits))
    if style == "decay":
        harm = 10 ** rng.normal(0, 1, (len(sites), 1)) * 4.0 ** -np.array(bits) * rng.uniform(0.8, 1.2, shape)
    elif style == "noisy":
        harm = rng.normal(0, 1, shape)
    elif style == "ties":
        harm = rng.integers(0, 4, shape).astype(float)
    else:
        harm = np.zeros(shape)
    return SensitivityTable("test", "harm", sites.names, bits, harm, graph_hash="graph")


def every_policy(sites: Sites, bits: tuple[int, ...]) -> list[Policy]:
    return [
        Policy(dict(zip(sites.names, widths, strict=True)), sites.graph_hash)
        for widths in itertools.product(bits, repeat=len(sites))
    ]


@pytest.fixture
def network() -> Sites:
    """Two convolutions on one input, a third on their sum."""
    channel = Scheme(symmetric=True, granularity="channel", axis=0)
    return Sites(
        (
            Site("input", "activation", (1, 3, 8, 8)),
            Site("conv1.weight", "weight", (8, 27), channel),
            Site("conv2.weight", "weight", (8, 27), channel),
            Site("sum", "activation", (1, 8, 8, 8)),
            Site("fc.weight", "weight", (10, 512), channel),
        ),
        (
            Operation("conv1", "conv2d", 13824, "input", "conv1.weight"),
            Operation("conv2", "conv2d", 13824, "input", "conv2.weight"),
            Operation("fc", "linear", 5120, "sum", "fc.weight"),
        ),
        "graph",
        26,
    )


@pytest.fixture
def table(network: Sites) -> SensitivityTable:
    bits = (2, 3, 4, 6, 8)
    size = np.array([[4.0], [1.0], [2.0], [3.0], [0.5]])
    return SensitivityTable("test", "harm", network.names, bits, size * 4.0 ** -np.array(bits), graph_hash="graph")
