from __future__ import annotations

import numpy as np
import pytest

from bitwright.cost import COSTS, Bops, CostModel, Latency, Size, costs_for
from bitwright.errors import InvalidInput
from bitwright.values import FLOAT, Operation, Policy, Scheme, Site, Sites

CHANNEL = Scheme(symmetric=True, granularity="channel", axis=0)


@pytest.fixture
def sites() -> Sites:
    """A convolution, a matmul of two activations, a square, and an operand without a site."""
    return Sites(
        (
            Site("x", "activation", (1, 4)),
            Site("w", "weight", (8, 16), CHANNEL),
            Site("y", "activation", (1, 8)),
            Site("v", "weight", (4, 8), Scheme(granularity="group", axis=0, group_size=3)),
        ),
        (
            Operation("conv", "conv2d", 100, "x", "w"),
            Operation("matmul", "matmul", 10, "x", "y"),
            Operation("square", "matmul", 7, "y", "y"),
            Operation("fc", "linear", 3, None, "v"),
            Operation("plain", "matmul", 1, None, None),
        ),
        "graph",
        5,
    )


def test_bops_by_hand(sites: Sites) -> None:
    policy = Policy({"x": 8, "w": 4, "y": 2})
    assert Bops().of(policy, sites) == 100 * 8 * 4 + 10 * 8 * 2 + 7 * 2 * 2 + 3 * 32 * 32 + 32 * 32
    assert Bops().of(FLOAT, sites) == 121 * 1024


def test_size_by_hand(sites: Sites) -> None:
    policy = Policy({"w": 3, "v": 6, "x": 8})
    symmetric = 128 * 3 / 8 + 8 * 4
    groups = 32 * 6 / 8 + 4 * 3 * (4 + 1)
    assert Size().of(policy, sites) == symmetric + groups + 5 * 4
    assert Size().of(FLOAT, sites) == (128 + 32 + 5) * 4


@pytest.mark.parametrize(("bits", "stored"), [(2, 4), (3, 4), (4, 4), (5, 8), (8, 8), (9, 16), (16, 16)])
def test_the_size_is_what_the_runtime_stores(sites: Sites, bits: int, stored: int) -> None:
    weight = 128 * stored / 8 + 8 * (4 + max(1, stored // 8))  # a zero point of its type beside each scale
    rest = (32 + 5) * 4
    policy = Policy({"w": bits})
    assert costs_for("onnxruntime")["size"].of(policy, sites) == weight + rest
    packed = 128 * bits / 8 + 8 * 4 + rest
    assert costs_for("onnxruntime")["packed"].of(policy, sites) == packed
    assert costs_for("none")["size"].of(policy, sites) == packed


def test_costs_are_registered_in_this_order() -> None:
    assert list(COSTS) == list(costs_for()) == ["size", "bops", "packed"]
    for name, model in costs_for().items():
        assert (model.name, model.unit) == (name, COSTS[name].unit)
    with pytest.raises(InvalidInput, match="runtime must be one of onnxruntime, openvino, executorch, got 'tensorrt'"):
        costs_for("tensorrt")


def latency(sites: Sites, widths: tuple[int | None, ...]) -> Latency:
    rng = np.random.default_rng(0)
    table = {}
    for op in sites.operations:
        for a in widths if op.left else (None,):
            for b in widths if op.right else (None,):
                table[op.name, a, b] = float(rng.uniform(1e-5, 1e-3))
    return Latency(table, constant=1e-4)


@pytest.mark.parametrize("name", ["bops", "size", "stored", "latency"])
def test_terms_add_up_to_the_cost_of_random_policies(sites: Sites, name: str) -> None:
    widths = (2, 4, 5, 8, 16, None)
    models: dict[str, CostModel] = {
        "bops": Bops(),
        "size": Size(),
        "stored": costs_for()["size"],
        "latency": latency(sites, widths),
    }
    model = models[name]
    assert isinstance(model, CostModel)
    terms = model.terms(sites, widths)
    rng = np.random.default_rng(1)
    for _ in range(50):
        policy = Policy({s: widths[int(rng.integers(len(widths)))] for s in sites.names})  # type: ignore[misc]
        assert terms.total(policy) == pytest.approx(model.of(policy, sites), rel=1e-14)


def test_latency_sums_the_table(sites: Sites) -> None:
    model = latency(sites, (8, None))
    table = model.table
    expected = (
        1e-4
        + table["conv", 8, 8]
        + table["matmul", 8, None]
        + table["square", None, None]
        + table["fc", None, None]
        + table["plain", None, None]
    )
    assert model.of(Policy({"x": 8, "w": 8}), sites) == pytest.approx(expected)


def test_latency_that_was_not_measured(sites: Sites) -> None:
    model = latency(sites, (8, None))
    with pytest.raises(InvalidInput, match=r"'conv', but not at \(left, right\) bits \(8, 4\); measure it"):
        model.of(Policy({"x": 8, "w": 4}), sites)
    assert (8, 4) not in model.terms(sites, (4, 8)).pairs[0].values
    with pytest.raises(InvalidInput, match="no operation 'conv'; did you mean 'conv1'"):
        Latency({("conv1", 8, 8): 1.0}).terms(sites, (8,))
    with pytest.raises(InvalidInput, match="finite number of seconds >= 0, got -1"):
        Latency({("conv", 8, 8): -1.0})
