"""First-order changes against measured ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from bitwright.graph import calibrate, capture
from bitwright.sensitivity import sensitivity
from bitwright.sensitivity.suspects import FAR, PROBED, VANISHED, Probe, checked, probe
from bitwright.values import Policy

BITS = (2, 4, 8)


@pytest.fixture
def spread():
    """Nearly all values are rounded to zero by 2 bits, beside an outlier; a layer norm follows."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 32), nn.LayerNorm(32), nn.Linear(32, 3)).double().eval()
    inputs = torch.randn(400, 32, dtype=torch.float64)
    inputs[:, 0] += 20
    return calibrate(capture(model, inputs[:2]), [(inputs, None)]), inputs


def first_logit(outputs):
    return outputs[:, 0].double().numpy()


def test_what_is_measured_is_the_change_of_the_score(spread):
    graph, inputs = spread
    sites = graph.sites.names
    exact = first_logit(graph(inputs).detach())
    products = np.full((400, len(sites), 3), 1e-3)
    products[:, sites.index("0"), 0] = 1e-4  # rises with bits
    found = probe(graph, (inputs[:PROBED],), BITS, [first_logit], [exact], [products])
    assert (sites.index("0"), 0) in found.suspects
    assert (sites.index("input"), 0) in found.suspects  # nearly all of it is rounded to zero
    policies = [Policy({sites[site]: BITS[width]}) for site, width in found.suspects]
    for policy, change in zip([*policies, Policy.uniform(graph.sites, 8, 8)], found.changes[0], strict=True):
        with graph.applied(policy):
            np.testing.assert_allclose(
                change, first_logit(graph(inputs[:PROBED]).detach()) - exact[:PROBED], atol=1e-12
            )


def test_measuring_takes_a_tenth_of_a_pass(spread):
    graph, inputs = spread
    exact = first_logit(graph(inputs).detach())
    rising = np.tile(np.array([1.0, 2.0, 3.0]), (400, len(graph.sites.names), 1))
    for samples in (80, 400):
        seen = probe(graph, (inputs[:PROBED],), BITS, [first_logit], [exact[:samples]], [rising[:samples]])
        assert len(seen.suspects) * PROBED / 2 <= 0.1 * samples
        assert seen.suspects


def test_changes_are_raised_to_what_was_measured_and_never_lowered():
    products = np.full((20, 4, 2), 0.1)
    alone = [np.full(8, 0.2), np.full(8, -0.5), np.full(8, 0.01)]
    seen = Probe(((0, 0), (1, 0), (2, 0)), (np.array([*alone, np.full(8, 0.2)]),))
    found = checked(seen, 0, ("a", "b", "c", "d"), np.ones(20), products)
    np.testing.assert_allclose(found.products[:, :, 0], np.broadcast_to([0.2, 0.5, 0.1, 0.1], (20, 4)))
    np.testing.assert_array_equal(found.products[:, :, 1], products[:, :, 1])
    assert found.doubts == {"b": FAR}


@pytest.mark.parametrize("sign", [1, -1])
def test_what_first_order_does_not_see_gets_the_measured_size(sign):
    """With its sign: a margin that falls is harmed, one that rises is not."""
    seen = Probe(((0, 0),), (np.array([sign * np.array([0.5] * 7 + [-0.5]), np.zeros(8)]),))
    found = checked(seen, 0, ("a",), np.ones(20), np.zeros((20, 1, 2)))
    np.testing.assert_array_equal(found.products[:, 0], np.tile([sign * 0.5, 0.0], (20, 1)))
    assert found.doubts == {"a": VANISHED}


def test_all_sites_are_doubted_where_they_do_more_together():
    products = np.full((20, 4, 2), 0.1)  # together 0.2
    for together, why in ((0.5, None), (0.7, FAR), (30.0, VANISHED)):
        seen = Probe((), (np.array([np.full(8, together)]),))
        found = checked(seen, 0, ("a", "b", "c", "d"), np.ones(20), products)
        assert found.doubts == ({} if why is None else dict.fromkeys("abcd", why))
    rounding = Probe((), (np.array([np.full(8, 1e-6)]),))
    assert checked(rounding, 0, ("a",), np.ones(20), products[:, :1] * 0).doubts == {}


def test_vanishing_gradients_are_noticed():
    """The targets are the model's own outputs: the squared error is at its minimum."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2)).eval()
    inputs = torch.randn(64, 8)
    with torch.no_grad():
        own = model(inputs)
    graph = calibrate(capture(model, inputs[:2]), [(inputs, own)])
    table = sensitivity(graph, [(inputs, own)], "fit", BITS, task="regression")
    assert table.doubts == dict.fromkeys(table.sites, VANISHED)
    assert f"{VANISHED} ({len(table.sites)})" in table.notes[-1]
    others = sensitivity(graph, [(inputs, torch.randn(64, 2))], "fit", BITS, task="regression")
    assert not set(others.doubts.values()) & {VANISHED, FAR}
