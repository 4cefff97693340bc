from __future__ import annotations

import copy
import itertools
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bitwright.graph import calibrate, capture
from bitwright.graph.additions import TieFreeSteps
from bitwright.graph.pt2e import quiet
from bitwright.numerics.affine import Affine
from bitwright.numerics.steps import rounded_up, step_at, stride
from bitwright.quantizers.remembered import Remembered
from bitwright.quantizers.uniform import ActivationQuantizer
from bitwright.values import FLOAT, Policy, Scheme, Site


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.third = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        x = self.first(x).relu()
        x = (x + self.second(x)).relu()
        return self.third(x) + x[:, :, :, :]


@pytest.fixture(scope="module")
def captured():
    torch.manual_seed(0)
    model = Residual().eval()
    x = torch.randn(8, 3, 8, 8)
    return calibrate(capture(model, x[:2]), [(x, None)])


@pytest.fixture
def graph(captured):
    captured.apply(FLOAT)
    return captured


def copied_graph(graph):
    with quiet():  # torch.utils._pytree warns of itself while it copies
        return copy.deepcopy(graph)


def quantizer(name, bits, position, zero=0):
    made = ActivationQuantizer(Site(name, "activation", (1, 4), Scheme()))
    low, high = 0, (1 << bits) - 1
    step = step_at(rounded_up(torch.tensor(position), stride(low, high)))

    made.fix(bits, Affine(step, torch.tensor(float(min(zero, high))), low, high))
    made.bits = bits
    return made


def ties(left, right, result):
    """How many pairs of grid points have a sum exactly between two points of the result's grid."""
    a, b, c = (q.grid(q.bits) for q in (left, right, result))
    sa, sb, sc = (Fraction(float(g.scale)) for g in (a, b, c))
    points = [range(g.low - int(g.zero_point), g.high - int(g.zero_point) + 1) for g in (a, b)]
    return sum((2 * (i * sa + j * sb) / sc) % 2 == 1 for i, j in itertools.product(*points))


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(*[st.integers(2, 5)] * 3), st.tuples(*[st.integers(-200, 100)] * 3), st.tuples(*[st.integers(0, 9)] * 3)
)
def test_no_sum_falls_between_two_grid_points(bits, positions, zeros):
    names = ("left", "right", "result")
    made = {n: quantizer(n, *rest) for n, *rest in zip(names, bits, positions, zeros, strict=True)}
    steps = TieFreeSteps.__new__(TieFreeSteps)
    steps.groups, steps.results, steps._made = (names,), frozenset({"result"}), Remembered()
    before = {n: q.grid(q.bits) for n, q in made.items()}
    steps.settle(made)
    assert ties(*made.values()) == 0
    for name, q in made.items():
        after = q.grid(q.bits)
        assert abs(float(after.scale) / float(before[name].scale) - 1) <= 0.25 + 1e-6
        assert after.low <= float(after.zero_point) <= after.high
        # The lower end stays within half a step.
        ends = [(a.low - float(a.zero_point)) * float(a.scale) for a in (before[name], after)]
        assert abs(ends[0] - ends[1]) <= 0.5 * float(after.scale) * (1 + 1e-6) or float(after.zero_point) == after.high


def test_ties_are_common_without_it():
    """What the module is for: with the steps 63/256, 59/256 and 74/256 sums fall between grid points."""
    made = [
        quantizer("left", 4, 64 * -3 + 62),
        quantizer("right", 4, 64 * -3 + 54),
        quantizer("result", 4, 64 * -2 + 10),
    ]
    assert [float(q.grid(4).scale) for q in made] == [63 / 256, 59 / 256, 74 / 256]
    assert ties(*made) > 0


def test_a_residual_stream_is_found_through_clamps_and_moves(graph):
    steps = TieFreeSteps(graph.module)
    assert [set(group) for group in steps.groups] == [{"relu", "second", "relu_1", "third", "add"}]
    assert steps.results == {"relu_1", "add"}


@pytest.mark.parametrize("activations", [2, 4, 8])
def test_applying_a_policy_makes_its_additions_free_of_ties(graph, activations):
    graph.apply(Policy.uniform(graph.sites, 8, activations))
    found = [graph.quantizers[n] for n in ("relu", "second", "relu_1")]
    assert ties(*found) == 0


def test_undoing_a_policy_gives_the_chosen_grids_back(graph):
    chosen = {n: graph.quantizers[n].grid(4) for n in ("relu", "second", "relu_1")}
    graph.apply(Policy.uniform(graph.sites, 8, 4))
    assert any(graph.quantizers[n].grid(4) is not chosen[n] for n in chosen)
    graph.apply(Policy.uniform(graph.sites, 8, 5))
    assert all(graph.quantizers[n].grid(4) is chosen[n] for n in chosen)
    graph.apply(FLOAT)
    assert all(graph.quantizers[n].grid(4) is chosen[n] for n in chosen)


def test_sites_in_float_or_above_8_bits_are_left_alone(graph):
    chosen = {n: graph.quantizers[n].grid(12) for n in ("relu", "second")}
    graph.apply(Policy({"relu": 12, "second": 12, "relu_1": 4}))
    assert all(graph.quantizers[n].grid(12) is chosen[n] for n in chosen)
    only = graph.quantizers["relu_1"].grid(4)
    graph.apply(Policy({"relu_1": 4}))
    assert graph.quantizers["relu_1"].grid(4) is only


def test_min_max_ranges_keep_everything_observed(captured):
    graph = copied_graph(captured)
    for q in graph.quantizers.values():
        q.set_ranges("minmax")
    graph.apply(Policy.uniform(graph.sites, 8, 4))
    for name in ("second", "relu_1", "third"):
        q = graph.quantizers[name]
        grid = q.grid(4)
        low, high = ((end - float(grid.zero_point) + half) * float(grid.scale) for end, half in ((0, -0.5), (15, 0.5)))
        assert low * (1 + 1e-6) <= q.observed.low
        assert q.observed.high <= high * (1 + 1e-6)


def test_a_copy_of_a_graph_settles_on_its_own(graph):
    policy = Policy.uniform(graph.sites, 8, 4)
    graph.apply(policy)
    copied = copied_graph(graph)
    copied.quantizers["second"].set_ranges("minmax")
    copied.apply(policy)
    assert ties(*(copied.quantizers[n] for n in ("relu", "second", "relu_1"))) == 0
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(copied_graph(graph)(x), graph(x), rtol=0, atol=0)
