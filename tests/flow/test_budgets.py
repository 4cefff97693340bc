"""Budgets in bytes are about what the runtime stores."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

import bitwright as bw
from bitwright.cost import costs_for, parse_budgets
from bitwright.flow.main_job import no_smaller
from bitwright.settings import Settings
from bitwright.values import Policy


def session_of(graph: Any, runtime: str = "onnxruntime") -> Any:
    return SimpleNamespace(sites=graph.sites, settings=Settings(runtime=runtime))


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        ("size=60%", "The budget size=60% does not make the file smaller: with it and without it, "),
        ("size=20%", None),
        ("packed=W3A8", None),
        ("bops=W4A4, size=60%", "The budget size=60% does not make the file smaller"),
        ("bops=W4A4", None),
        ("bops=W2A2, packed=W3A8", "The budget packed=W3A8 does not make the file smaller"),
    ],
)
def test_a_budget_that_buys_no_bytes_is_said(digits_graph, digits_data, budget: str, said: str | None) -> None:
    session, sites = session_of(digits_graph), digits_graph.sites
    table = bw.sensitivity(digits_graph, [digits_data[0]], "noise", bits=(2, 3, 4, 5, 6, 8))
    found = no_smaller(session, table, [parse_budgets(budget, sites, costs_for())])
    assert len(found) == (said is not None)
    assert all(sentence.startswith(str(said)) for sentence in found)


def test_where_widths_are_packed_fewer_bits_are_fewer_bytes(digits_graph) -> None:
    """Three bits save nothing in ONNX Runtime, and a quarter where nothing is exported."""
    sites = digits_graph.sites
    three, four = (Policy.uniform(sites, w, 8) for w in (3, 4))
    stored, packed = costs_for("onnxruntime")["size"], costs_for("none")["size"]
    assert stored.of(three, sites) == stored.of(four, sites)
    weights = sum(site.numel for site in sites.weights)
    assert packed.of(four, sites) - packed.of(three, sites) == weights / 8


def test_the_searched_size_is_what_is_stored(digits_graph, digits_data, tmp_path) -> None:
    """The search leaves no width unused that costs nothing: no site has 2, 3, 5 or 6 bits."""
    sites = digits_graph.sites
    table = bw.sensitivity(digits_graph, [digits_data[0]], "noise", bits=(2, 3, 4, 5, 6, 8))
    (found,) = bw.search(digits_graph, table, cost="size", budgets=["size=20%"])
    assert {found.policy[site.name] for site in sites.weights} <= {4, 8}
    file = bw.export(digits_graph, tmp_path / "model.onnx", policy=found.policy)
    assert found.costs["size"] < file.bytes < found.costs["size"] + 1000 * len(sites)  # the graph
