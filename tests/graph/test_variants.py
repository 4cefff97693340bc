"""Variants that share their beginning give what each gives as a whole."""

from __future__ import annotations

import pytest
import torch

import bitwright as bw
from bitwright.graph.places import SITES
from bitwright.graph.variants import Variant, groups, run_variants
from bitwright.graph.walk import Walk


@pytest.fixture(scope="module", params=["branches", "recurrent", "stream"])
def network(request, built):
    return built(request.param, 3)


@pytest.fixture(scope="module")
def branches(built):
    return built("branches", 3)


def _whole(graph, policy, inputs):
    with graph.applied(policy), torch.no_grad():
        return graph(*inputs)


@pytest.mark.parametrize("widths", [None, (4, 6), (8, 5)])
def test_variants_equal_whole_runs_bit_for_bit(network, widths):
    graph, data = network
    base = bw.FLOAT if widths is None else bw.Policy.uniform(graph.sites, *widths)
    names = graph.sites.names
    changes = [{name: bits} for name in names for bits in (2, 3, 8)]
    changes += [{name: None} for name in names if base.bits]
    changes += [dict.fromkeys(names[i : i + 3], 5) for i in range(0, len(names), 2)]
    variants = [Variant(tuple(change), base.replaced(change)) for change in changes]
    seen = set()
    for position, i, outputs in run_variants(graph, data, variants, base, with_base=True):
        seen.add((position, i))
        policy = variants[position].policy if position < len(variants) else base
        assert torch.equal(outputs, _whole(graph, policy, data[i])), policy
    assert len(seen) == (len(variants) + 1) * len(data)


def test_a_width_that_moves_the_steps_of_sites_before_it(built):
    # What makes this a test: without it, the network above would not tell a common beginning that is stale.
    graph, _ = built("stream")
    base = bw.Policy.uniform(graph.sites, 4, 6)
    moved = 0
    with graph.applied(base):
        before = {name: graph.quantizers[name].grid(6).step for name in (s.name for s in graph.sites.activations)}
    for name in before:
        with graph.applied(base.replaced({name: 2})):
            earlier = graph.sites.names[: graph.sites.names.index(name)]
            moved += any(graph.quantizers[n].grid(6).step != before[n] for n in earlier if n in before)
    assert moved


def test_only_what_a_site_reaches_is_computed(branches):
    graph, data = branches
    walk = Walk(graph.module)
    assert walk.start(["linear.weight"]) > walk.start(["twice.weight"]) > walk.start(["long1.weight"])
    assert walk.start([graph.sites[0].name]) == 1  # right behind the input
    assert walk.start(["linear.weight", "twice.weight"]) == walk.start(["twice.weight"])
    calls = []
    hooks = [
        quantizer.register_forward_hook(lambda module, *_: calls.append(module.site.name))
        for quantizer in graph.quantizers.values()
    ]
    try:
        list(run_variants(graph, data[:1], [Variant(("linear.weight",), bw.Policy({"linear.weight": 4}))]))
    finally:
        for hook in hooks:
            hook.remove()
    whole = sum(1 for node in graph.module.graph.nodes if str(node.target).startswith(f"{SITES}."))
    assert len(calls) == whole  # each quantizer once: the walk to the linear layer, and the rest from there
    assert calls[-1] == "linear.weight"


def test_groups_bound_the_memory(branches):
    graph, data = branches
    assert [len(group) for group in groups(graph, [(inputs, None) for inputs in data], 1)] == [1, 1, 1]
    assert [len(group) for group in groups(graph, [(inputs, None) for inputs in data])] == [3]
