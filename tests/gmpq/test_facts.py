"""Facts: each on material whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bitwright.gmpq import METHODS, facts
from bitwright.gmpq.facts import (
    FACTS,
    Fact,
    Material,
    Measured,
    activations_get_more,
    attribution_helps,
    compared,
    correlated,
    entropy_rises,
    gaps_follow_gradients,
    inner_optimum,
    linear_is_best,
    over_seeds,
    residuals_get_more,
    small_proxies_overfit,
)
from bitwright.tasks import Classification
from bitwright.values import Policy
from bitwright.values.searched import Round, Searched


def course(*distances):
    return tuple(Round(1.0, 1.0, 1.0, 4.0, 4.0, 0.5, 1.0, distance) for distance in distances)


def made(graph, search, seeds=(0, 1), batches=None):
    return Material(graph, Classification(), batches, (2, 3, 4, 6), seeds, search)


def searches(distances, policy=None):
    """A search whose result is known: (method, share, seed) -> distances along it."""

    def search(method, share, seed):
        rounds = course(*distances(method, share, seed))
        return Searched(policy or Policy(), "", "", (2, 3, 4, 6), {}, rounds, "", 1, (), None, 0.0)

    return search


def test_the_shape_that_is_best_is_found(digits_graph):
    def distances(method, share, seed):
        return [{"linear": 1.0, "concave": 2.0, "convex": 4.0}[method.shape] * (1 + 0.01 * seed)]

    found = linear_is_best(made(digits_graph, searches(distances)))
    assert (found.figure, found.verdict) == (pytest.approx(0.5), "holds")
    worse = linear_is_best(made(digits_graph, searches(lambda m, *_: [1.0 + (m.shape == "linear")])))
    assert (worse.figure, worse.verdict) == (pytest.approx(-1.0), "does not hold")


def test_an_inner_optimum_is_found(digits_graph):
    found = inner_optimum(made(digits_graph, searches(lambda m, share, seed: [1 + abs(m.top - 0.5) + 0.001 * seed])))
    assert found.figure == pytest.approx(1 - 1 / 1.4, rel=0.01)
    assert "at 0.5" in found.note
    assert found.verdict == "holds"
    end = inner_optimum(made(digits_graph, searches(lambda m, share, seed: [2 - m.top])))
    assert end.verdict == "does not hold"


def test_small_proxies_and_attribution_are_compared(digits_graph):
    found = small_proxies_overfit(made(digits_graph, searches(lambda m, share, seed: [1 / share])))
    assert found.figure == pytest.approx(0.6)
    along = attribution_helps(made(digits_graph, searches(lambda m, *_: [3.0, None, 1.0 + (m.weight == 0)])))
    assert along.figure == pytest.approx((0 + 0.5) / 2)
    assert "1 of 2, 1 of 2" in along.note


def test_bits_of_kinds_are_compared(digits_graph):
    bits = {site.name: 6 if site.kind == "activation" else 4 for site in digits_graph.sites}
    material = made(digits_graph, searches(lambda *_: [1.0], Policy(bits)))
    assert activations_get_more(material).figure == pytest.approx(2)
    assert activations_get_more(material).verdict == "holds"


def test_residuals_are_told_from_branches():
    import bitwright as bw
    from bitwright.zoo import resnet20

    images = torch.randn(8, 3, 32, 32)
    graph = bw.calibrate(bw.capture(resnet20().eval(), images[:2]), [(images, None)])
    bits = {site.name: 6 if "relu2" in site.name else 3 for site in graph.sites.activations}
    bits |= {name: 2 for name in bits if name.endswith("conv2")}  # cost nothing, so they do not count
    policy = Policy({**dict.fromkeys(graph.sites.names, 4), **bits})
    found = residuals_get_more(made(graph, searches(lambda *_: [1.0], policy)))
    assert 2 < found.figure <= 3


def test_entropy_and_gradients_are_measured(digits_graph, digits_data, monkeypatch):
    inputs, targets = digits_data[0]
    material = made(digits_graph, None, batches=[(inputs[i : i + 64], targets[i : i + 64]) for i in range(0, 512, 64)])
    found = entropy_rises(material)
    assert found.interval[0] <= found.figure <= found.interval[1]
    monkeypatch.setattr(facts, "MIXED_IN", 0.2)
    gap = gaps_follow_gradients(material)
    assert gap.figure > 0.2
    assert gap.verdict == "holds"


def test_correlations_and_means_have_their_intervals():
    random = np.random.default_rng(0)
    left = random.normal(size=400)
    found = correlated(left, 0.6 * left + 0.8 * random.normal(size=400), "")
    assert found.figure == pytest.approx(0.6, abs=0.08)
    assert found.interval[1] - found.interval[0] == pytest.approx(2 * 1.96 * (1 - 0.36) / 20, rel=0.25)
    assert over_seeds([1.0]) is None
    assert over_seeds([1.0, 2.0, 3.0]) == pytest.approx((2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5), rel=1e-4)
    assert compared([1.0], [2.0], "").verdict == "undecided"


def test_what_is_not_built_says_why(digits_graph):
    missing = [fact for fact in FACTS if fact.measure is None]
    assert missing
    for fact in missing:
        found = fact.found(made(digits_graph, None))
        assert (found.figure, found.verdict) == (None, "not measured")
        assert found.note
    measured = Fact("a", "b", "c", lambda material: Measured(2.0, (1.0, 3.0), "d")).found(made(digits_graph, None))
    assert (measured.figure, measured.low, measured.high, measured.verdict) == (2.0, 1.0, 3.0, "holds")
    assert METHODS["gmpq"].shape == "linear"
