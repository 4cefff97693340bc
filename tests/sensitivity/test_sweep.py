from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.errors import InvalidData, InvalidInput, InvalidPolicy
from bitwright.sensitivity import blocks, sensitivities, sweep
from bitwright.tasks import evaluate
from bitwright.values.sweep import Sweep


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


def _captured(model, shape, classes, batches=3, size=8):
    torch.manual_seed(1)
    data = [(torch.randn(size, *shape), torch.randint(classes, (size,))) for _ in range(batches)]
    return bw.calibrate(bw.capture(model.eval(), data[0][0]), data), data


@pytest.fixture(scope="module")
def branches():
    torch.manual_seed(0)
    return _captured(Branches(), (3, 8, 8), 5)


def _whole(graph, policy, inputs):
    with graph.applied(policy), torch.no_grad():
        return graph(*inputs)


def test_figures_are_those_of_evaluate(digits_graph, digits_data):
    inputs, targets = digits_data[1]
    data = [(inputs[i : i + 100], targets[i : i + 100]) for i in range(0, 300, 100)]
    found = sweep(digits_graph, data, (3,))
    assert len(found) == len(digits_graph.sites)
    for name in digits_graph.sites.names:
        verdict = evaluate(digits_graph, bw.Policy({name: 3}), data, resamples=100)
        row = found.row(name)
        assert row.kl == pytest.approx(verdict.kl.value, rel=1e-9)
        assert row.loss == pytest.approx(verdict.loss.value, rel=1e-9)
        assert row.accuracy == verdict.accuracy.value
        assert row.agreement == verdict.agreement.value
    assert found.floats["accuracy"] == verdict.float_accuracy.value
    assert found.floats["loss"] == pytest.approx(verdict.float_loss.value, rel=1e-9)


def test_errors_and_sqnr_against_their_definition(digits_graph, digits_data):
    inputs, targets = digits_data[1][0][:64], digits_data[1][1][:64]
    site = digits_graph.sites.weights[0].name
    row = sweep(digits_graph, [(inputs, targets)], (2,), sites=[site]).row(site)
    z = _whole(digits_graph, bw.FLOAT, (inputs,)).double()
    q = _whole(digits_graph, bw.Policy({site: 2}), (inputs,)).double()
    kl = (z.softmax(1) * (z.log_softmax(1) - q.log_softmax(1))).sum(1)
    change = nn.functional.cross_entropy(q, targets, reduction="none")
    change -= nn.functional.cross_entropy(z, targets, reduction="none")
    assert row.kl == pytest.approx(float(kl.mean()))
    assert row.errors["kl"] == pytest.approx(float(kl.std() / 8))
    assert row.errors["loss"] == pytest.approx(float(change.std() / 8))
    assert row.sqnr == pytest.approx(10 * math.log10(float(z.square().sum() / (q - z).square().sum())))


def test_each_alone_off_and_blocks(branches):
    graph, data = branches
    base = bw.Policy.uniform(graph.sites, weights=3, activations=8)
    off = sweep(graph, data, (None,), base=base)
    assert len(off) == len(graph.sites)
    assert [row.kl for row in off] == sorted(row.kl for row in off)  # the one whose absence mends most first
    assert all(row.width == "float" for row in off)
    direct = evaluate(graph, base, data, resamples=100)
    assert off.base_row.kl == pytest.approx(direct.kl.value, rel=1e-9)
    named = blocks(graph.sites, depth=1)
    assert sorted(name for names in named.values() for name in names) == sorted(graph.sites.names)
    together = sweep(graph, data, base, sites=named)
    assert {row.label for row in together} == set(named)
    label, names = next((label, names) for label, names in named.items() if len(names) > 1)
    policy = bw.Policy({name: base[name] for name in names})
    assert together.row(label).kl == pytest.approx(evaluate(graph, policy, data, resamples=100).kl.value, rel=1e-9)
    assert together.row(label).width == ("mixed" if len({base[n] for n in names}) > 1 else base[names[0]])


def test_worst_first_by_any_measure(branches):
    graph, data = branches
    found = sweep(graph, data, (2, 6))
    for measure in ("distance", "kl", "loss", "accuracy", "agreement", "sqnr"):
        harms = [found.harm(row, measure) for row in found.ranking(measure)]
        assert harms == sorted(harms, reverse=True)
    assert found.rows == found.ranking()


def test_the_worst_rows_that_cover_a_share(branches):
    graph, data = branches
    found = sweep(graph, data, (2,))
    total = sum(row.kl for row in found)
    for share in (0.1, 0.5, 0.8, 1.0):
        count = found.covering(share)
        assert sum(row.kl for row in found.rows[: count - 1]) < share * total
        assert sum(row.kl for row in found.rows[:count]) >= share * total * (1 - 1e-12)


def test_groups_bound_the_memory_and_change_nothing(branches):
    graph, data = branches
    assert sweep(graph, data, (3,), held_bytes=1).rows == sweep(graph, data, (3,)).rows


def test_the_table_and_the_methods_that_share_a_sweep(branches):
    graph, data = branches
    methods = ("one-site-distance", "one-site-loss", "one-site-primary", "noise")
    tables = sensitivities(graph, data, methods, bits=(2, 4))
    assert tuple(table.method for table in tables) == methods
    found = sweep(graph, data, (4, 2))
    for name in graph.sites.names:
        measured = []
        for bits in (2, 4):
            row = found.row(name, bits)
            drop = found.floats["accuracy"] - row.accuracy
            measured.append((row.kl, row.loss - found.floats["loss"], drop))
        for table, few, many in zip(tables, *measured, strict=False):  # harms never rise with bits
            assert table.at(name, 4) == pytest.approx(many)
            assert table.at(name, 2) == pytest.approx(max(few, many))
    assert tables[0].sites == graph.sites.names
    assert tables[0].samples == 24
    with pytest.raises(InvalidInput, match="from float"):
        sweep(graph, data, (None,), base=bw.Policy.uniform(graph.sites, weights=4)).table()


def test_a_primary_figure_of_all_samples_together_gives_way_to_the_loss_or_the_distance(branches):
    graph, data = branches
    without = sweep(graph, [x for x, _ in data], (2, 4), task="classification")
    for found, instead in ((sweep(graph, data, (2, 4)), "loss"), (without, "distance")):
        table = replace(found, primary="perplexity").table("primary")
        assert np.array_equal(table.harm, found.table(instead).harm)
        assert table.unit == found.table(instead).unit
        assert f"perplexity is of all samples together, so the {instead} takes its place" in table.notes
        assert not any("takes its place" in note for note in found.table(instead).notes)
    with pytest.raises(InvalidInput, match="need targets"):
        without.table("primary")


def test_to_json_and_back(branches):
    graph, data = branches
    found = sweep(
        graph, [x for x, _ in data], (2,), task="classification", base=bw.Policy({"linear.weight": 8}), samples=10
    )
    text = found.to_json()
    assert Sweep.from_json(text) == found
    assert found.samples == 10
    assert found.floats == {}
    nothing = bw.Policy({"linear.weight": 16})
    same = sweep(graph, [(data[0][0] * 0, None)], nothing, sites=["linear.weight"], task="classification")
    assert Sweep.from_json(same.to_json()) == same
    with pytest.raises(InvalidInput, match="the sweep: bitwright must be 'sweep', got 'policy'"):
        Sweep.from_dict(json.loads(nothing.to_json()))


def test_the_policy_is_left_as_it_was(branches):
    graph, data = branches
    before = bw.Policy.uniform(graph.sites, weights=5)
    graph.apply(before)
    try:
        expected = graph(data[0][0])
        sweep(graph, data, (2,))
        assert graph.policy == before
        assert torch.equal(graph(data[0][0]), expected)
    finally:
        graph.apply(bw.FLOAT)


def test_a_loss_of_ones_own(branches):
    graph, data = branches
    found = sweep(graph, data, (4,), sites=["linear.weight"], loss=lambda z, y: z.square().sum(1))
    z = torch.cat([_whole(graph, bw.FLOAT, (x,)) for x, _ in data])
    assert found.floats["loss"] == pytest.approx(float(z.square().sum(1).mean()), rel=1e-6)
    with pytest.raises(InvalidInput, match="one number per sample"):
        sweep(graph, data, (4,), sites=["linear.weight"], loss=lambda z, y: z.mean())


def test_progress_ends_with_all_samples(branches):
    graph, data = branches
    steps = []
    sweep(graph, data, (4,), samples=20, held_bytes=1, progress=lambda done, total: steps.append((done, total)))
    assert steps[-1] == (20, 20)
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)


def test_bad_input_is_one_line(branches):
    graph, data = branches
    with pytest.raises(InvalidInput, match=r"site 'linear.wieght' is not in this graph.*did you mean 'linear.weight'"):
        sweep(graph, data, sites=["linear.wieght"])
    with pytest.raises(InvalidInput, match="got the text 'linear.weight'"):
        sweep(graph, data, sites="linear.weight")
    with pytest.raises(InvalidPolicy, match="between 2 and 16, got 1"):
        sweep(graph, data, (1,))
    with pytest.raises(InvalidInput, match="nothing to sweep"):
        sweep(graph, data, (None,))
    with pytest.raises(InvalidData, match="batches are empty: a sweep needs"):
        sweep(graph, [])
    with pytest.raises(InvalidData, match="between 0 and 4"):
        sweep(graph, [(data[0][0], data[0][1] + 5)])
    found = sweep(graph, [data[0][0]], (4,), sites=["linear.weight"], task="classification")
    with pytest.raises(InvalidInput, match="distance, sqnr, kl, agreement, got 'loss'.*need targets"):
        found.ranking("loss")
    with pytest.raises(InvalidInput, match="did you mean 'kl'"):
        found.ranking("klt")
    with pytest.raises(InvalidInput, match="width must be one of 4 for 'linear.weight', got 5"):
        found.row("linear.weight", 5)


def test_dense_outputs_average_over_positions():
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1)).eval()
    x, y = torch.randn(6, 2, 5, 5), torch.randint(3, (6, 5, 5))
    graph = bw.calibrate(bw.capture(model, x), [(x, y)])
    found = sweep(graph, [(x, y)], (2,), sites=["0.weight"])
    verdict = evaluate(graph, bw.Policy({"0.weight": 2}), [(x, y)], resamples=100)
    row = found.row("0.weight")
    assert row.kl == pytest.approx(verdict.kl.value, rel=1e-9)
    assert np.isclose(row.accuracy, verdict.accuracy.value)
    assert np.isclose(row.loss, verdict.loss.value)
