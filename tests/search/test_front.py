from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from bitwright.cost import Bops, Latency, costs_for
from bitwright.errors import ImpossibleBudget, InvalidInput, PolicyMismatch
from bitwright.search import Constraints, search
from bitwright.search import knapsack as knapsack_module
from bitwright.search.knapsack import BEAMS
from bitwright.search.milp import solve_milp
from bitwright.search.objective import make_objective
from bitwright.search.problem import build_problem
from bitwright.values import Budget, Front, MarginModel, Operation, Policy, Scheme, SensitivityTable, Site, Sites

from .conftest import every_policy, make_sites, make_table

BITS = (2, 3, 4, 5, 6, 8)


def convolutions(count: int, seed: int) -> tuple[Sites, SensitivityTable]:
    """A network of convolutions, some on the same input, with harms over four orders of magnitude."""
    rng = np.random.default_rng(seed)
    sites: list[Site] = []
    operations = []
    for i in range(count):
        if i == 0 or rng.random() < 0.75:
            left = f"act{i}"
            sites.append(Site(left, "activation", (1, int(rng.integers(100, 10_000)))))
        shape = (int(rng.integers(8, 128)), int(rng.integers(8, 1000)))
        sites.append(Site(f"w{i}", "weight", shape, Scheme(symmetric=True, granularity="channel", axis=0)))
        operations.append(Operation(f"conv{i}", "conv2d", int(10 ** rng.uniform(4, 7)), left, f"w{i}"))
    harm = 10 ** rng.normal(-1, 1, (len(sites), 1)) * 4.0 ** -np.array(BITS) * rng.uniform(0.5, 2, (len(sites), 6))
    names = tuple(s.name for s in sites)
    return Sites(tuple(sites), tuple(operations), "g"), SensitivityTable("fit", "loss", names, BITS, harm)


def test_one_candidate_for_each_entry_in_order(network: Sites, table: SensitivityTable) -> None:
    budgets = ["bops=W8A8", ["bops=W3A3", "size=W4A4"], Budget("size", 4000.0)]
    front = search(network, table, budgets=budgets, cost="size")
    assert [c.policy.name for c in front] == ["bops=W8A8", "bops=W3A3, size=W4A4", "size=4KB"]
    assert front.cost == "size"
    assert front.method == "test"
    assert front.unit == "harm"
    assert all(c.optimal and c.gap == 0.0 for c in front)
    assert [set(c.used) for c in front] == [{"bops"}, {"bops", "size"}, {"size"}]
    assert all(set(c.costs) == {"bops", "size", "packed"} for c in front)
    assert front[0].policy.bits == Policy.uniform(network, 8, 8).bits
    assert front[0].used["bops"] == 1.0
    assert front[0].policy.graph_hash == "graph"
    assert Front.from_json(front.to_json()).to_dict() == front.to_dict()


def test_a_graph_stands_for_its_sites(network: Sites, table: SensitivityTable) -> None:
    graph = SimpleNamespace(sites=network)
    assert search(graph, table, budgets="bops=W4A4") == search(network, table, budgets="bops=W4A4")


def test_policies_name_their_sites_in_the_order_of_the_graph(network: Sites, table: SensitivityTable) -> None:
    (found,) = search(network, table, budgets="bops=W4A4", constraints=Constraints(together=[["sum", "input"]]))
    assert tuple(found.policy.bits) == network.names


def test_the_whole_front(network: Sites, table: SensitivityTable) -> None:
    front = search(network, table, points=60)
    costs = [c.costs["bops"] for c in front]
    harms = [c.predicted for c in front]
    assert costs == sorted(set(costs))
    assert harms == sorted(set(harms), reverse=True)
    assert front[0].policy.bits == Policy.uniform(network, 2, 2).bits
    assert front[-1].policy.bits == Policy.uniform(network, 8, 8).bits
    assert all(c.costs["bops"] <= c.budgets[0].limit for c in front)
    for point in front.candidates[::8]:
        dominating = [
            p
            for p in every_policy(network, table.bits)
            if Bops().of(p, network) <= point.costs["bops"] and table.predict(p) < point.predicted * (1 - 1e-9)
        ]
        assert not dominating


def test_no_budget_is_left_unused_when_all_scores_vanish() -> None:
    sites, table = convolutions(30, 0)
    for harm in (table.harm * 0, table.harm * 0 + 5, table.harm * 1e-300):
        (found,) = search(sites, replace(table, harm=harm), budgets="bops=W4A4")
        assert found.used["bops"] > 0.99
        assert found.optimal


def test_a_measured_table_in_which_more_bits_are_worse(network: Sites, table: SensitivityTable) -> None:
    harm = table.harm.copy()
    harm[network.names.index("fc.weight")] = [0.5, -0.25, 0.1, 0.2, 0.3]
    front = search(network, replace(table, harm=harm), budgets=["bops=W8A8", "bops=W4A4"])
    assert [c.policy["fc.weight"] for c in front] == [3, 3]
    assert front[0].predicted < 0


@pytest.mark.parametrize("beams", [BEAMS, (1,)])
@pytest.mark.parametrize("budget", ["bops=W4A4", "bops=W3A6", "size=W5A8", "bops=W4A4, size=W4A4"])
def test_larger_networks_agree_with_the_integer_program(
    budget: str, beams: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(knapsack_module, "BEAMS", beams)
    sites, table = convolutions(25, 3)
    (found,) = search(sites, table, budgets=[budget])
    models = [costs_for()["bops"], costs_for()["size"]]
    limits = {b.metric: b.limit for b in found.budgets}
    problem = build_problem(sites, table, models, Constraints())
    objective = make_objective(problem.harms(table), problem.preference)
    room = np.array([limits.get(m.name, np.inf) for m in models]) - problem.constant
    chosen = solve_milp(problem, objective, room)
    other = problem.policy([ls[i] for ls, i in zip(problem.levels, chosen.picks, strict=True)], sites)
    assert found.predicted == pytest.approx(table.predict(other), rel=2e-8)
    assert found.optimal


def test_two_hundred_sites_stay_exact_and_scale_free() -> None:
    sites, table = convolutions(110, 1)
    budgets = [f"bops=W{w}A{a}" for w in (3, 4, 5) for a in (3, 4, 6)]
    front = search(sites, table, budgets=budgets)
    assert all(c.optimal and c.used["bops"] > 0.999 for c in front)
    small = search(sites, replace(table, harm=table.harm * 1e-9), budgets=budgets)
    assert [c.policy.bits for c in small] == [c.policy.bits for c in front]


def test_one_width_for_all_activations() -> None:
    sites, table = convolutions(40, 2)
    front = search(sites, table, budgets=["bops=W4A4"], constraints=Constraints(together=[["act*"]]))
    widths = {front[0].policy[s.name] for s in sites.activations}
    assert len(widths) == 1
    assert front[0].optimal
    best = min(
        search(sites, table, budgets=["bops=W4A4"], constraints=Constraints(pinned={"act*": b}))[0].predicted
        for b in BITS[:-2]
    )
    assert front[0].predicted == pytest.approx(best, rel=1e-9)


def test_impossible_budgets_say_what_is_possible(network: Sites, table: SensitivityTable) -> None:
    smallest = Bops().of(Policy.uniform(network, 2, 2), network)
    with pytest.raises(ImpossibleBudget) as caught:
        search(network, table, budgets="bops=100K")
    assert str(caught.value) == (
        f"no policy fits: bops=100K was asked for, the smallest possible is bops={smallest / 1e3:.1f}K "
        "(0.40% of float32); raise the budget, allow fewer bits than 2, or relax the constraints"
    )
    pinned = Constraints(pinned={"*.weight": 8})
    with pytest.raises(ImpossibleBudget, match=r"size=W4A4 \(.*KB\) was asked for, the smallest possible is size="):
        search(network, table, budgets="size=W4A4", constraints=pinned)
    reachable = str(caught.value).split("smallest possible is ")[1].split(" ")[0]
    assert search(network, table, budgets=reachable)[0].policy.bits == Policy.uniform(network, 2, 2).bits


def test_budgets_that_only_exclude_each_other() -> None:
    sites = Sites(
        (Site("x", "activation", (1,)), Site("w", "weight", (64,), Scheme(symmetric=True))),
        (Operation("op", "linear", 100, "x", "w"),),
    )
    table = SensitivityTable("t", "h", ("x", "w"), (2, 8), np.array([[1.0, 0.5], [1.0, 0.5]]))
    seconds = {("op", 2, 2): 4.0, ("op", 8, 2): 3.0, ("op", 2, 8): 1.0, ("op", 8, 8): 1.0}
    with pytest.raises(ImpossibleBudget) as caught:
        search(sites, table, budgets=["latency=2s, packed=30"], costs={"latency": Latency(seconds)})
    assert str(caught.value) == (
        "no policy fits all of latency=2s, packed=30 (30B) at once, though each alone is possible; "
        "within packed=30 (30B) the smallest possible is latency=3s; raise one of them"
    )
    (found,) = search(sites, table, budgets=["latency=3s, packed=30"], costs={"latency": Latency(seconds)})
    assert dict(found.policy.bits) == {"x": 8, "w": 2}


def test_latency_tables_restrict_the_choice(network: Sites, table: SensitivityTable) -> None:
    measured = {(op.name, a, w): 1e-3 * a * w for op in network.operations for a in (8,) for w in (4, 8)}
    model = Latency(measured)
    (found,) = search(network, table, cost=model, budgets="latency=0.15")
    assert {found.policy[s.name] for s in network.activations} == {8}
    assert {found.policy[s.name] for s in network.weights} <= {4, 8}
    assert found.costs["latency"] <= 0.15
    assert len(search(network, table, cost=model, points=5)) >= 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cost": "energy"}, "unknown cost 'energy'; known are: size, bops, packed"),
        ({"points": 1}, "points must be a whole number from 2 to 1000, got 1"),
        ({"time_limit": 0}, "time_limit must be above 0 seconds"),
        ({"budgets": []}, "budgets is empty"),
        ({"budgets": ["bops"]}, "METRIC=LIMIT"),
    ],
)
def test_unusable_arguments(
    network: Sites, table: SensitivityTable, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        search(network, table, **arguments)  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_a_table_of_another_graph(network: Sites, table: SensitivityTable) -> None:
    with pytest.raises(PolicyMismatch, match="made for graph other, this graph is graph"):
        search(network, replace(table, graph_hash="other"))
    with pytest.raises(PolicyMismatch, match="has site 'conv9', which this graph does not have"):
        search(network, replace(table, sites=("conv9", *table.sites[1:]), graph_hash=""))


def margin_table(sites: Sites, seed: int, bits: tuple[int, ...]) -> SensitivityTable:
    """A margin model whose samples disagree about which sites matter."""
    rng = np.random.default_rng(seed)
    traces, shares = 10 ** rng.normal(0, 0.7, (len(sites), 1)), rng.exponential(1.0, (64, len(sites)))
    noise = 10 ** rng.normal(0, 0.5, (len(sites), 1)) * 4.0 ** -np.array(bits)
    margins = np.abs(rng.normal(2.0, 1.0, 64))
    variances = traces * noise
    return SensitivityTable(
        "margin-fit",
        "flips",
        sites.names,
        bits,
        variances,
        margin=MarginModel(margins, variances, shares),
    )


def test_margin_models_are_searched_through_linearizations() -> None:
    best = additive = searched = 0.0
    for seed in range(6):
        sites = make_sites(np.random.default_rng(seed), 4, 5)
        table = margin_table(sites, seed, (2, 4, 8))
        limit = Bops().of(Policy.uniform(sites, 4, 4), sites)
        (found,) = search(sites, table, budgets="bops=W4A4")
        (plain,) = search(sites, replace(table, margin=None), budgets="bops=W4A4")
        fitting = [table.predict(p) for p in every_policy(sites, table.bits) if Bops().of(p, sites) <= limit]
        assert found.predicted == table.predict(found.policy)
        assert min(fitting) <= found.predicted <= table.predict(plain.policy)
        assert found.costs["bops"] <= limit
        best += min(fitting)
        searched += found.predicted
        additive += table.predict(plain.policy)
    assert best <= searched <= additive
    assert searched == pytest.approx(best, rel=0.01)


def test_margin_predictions_do_not_get_worse_with_larger_budgets() -> None:
    for seed in range(4):
        sites = make_sites(np.random.default_rng(seed), 8, 10)
        low, whole = (Bops().of(Policy.uniform(sites, b, b), sites) for b in (2, 8))
        limits = [Budget("bops", float(x)) for x in np.geomspace(low, whole, 12)]
        front = search(sites, margin_table(sites, seed, BITS), budgets=limits)
        predicted = [c.predicted for c in front]
        assert predicted == sorted(predicted, reverse=True)


def test_margins_out_of_reach_of_any_noise() -> None:
    sites = make_sites(np.random.default_rng(0), 4, 5)
    table = margin_table(sites, 0, (2, 4, 8))
    assert table.margin is not None
    far = replace(table, margin=replace(table.margin, margins=table.margin.margins * 1e6))
    (found,) = search(sites, far, budgets="bops=W4A4")
    assert found.predicted == 0.0
    assert found.optimal
    assert make_table(np.random.default_rng(0), sites, (2, 4)).predict(Policy()) == 0.0


def test_a_policy_taken_over_from_another_budget_does_not_bring_its_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys.modules[search.__module__], "_ROUNDS", 0
    )  # so that nothing is proven for it under its own budget
    taken_over = 0
    for seed in range(12):
        sites = make_sites(np.random.default_rng(seed), 8, 10)
        low, whole = (Bops().of(Policy.uniform(sites, b, b), sites) for b in (2, 8))
        limits = [Budget("bops", float(x)) for x in np.geomspace(low, whole, 12)]
        table = margin_table(sites, seed, BITS)
        together = search(sites, table, budgets=limits)
        for limit, candidate in zip(limits, together, strict=True):
            (alone,) = search(sites, table, budgets=[limit])
            if alone.policy.bits != candidate.policy.bits:
                taken_over += 1
                assert not candidate.optimal
    assert taken_over


def test_a_policy_taken_over_is_judged_by_a_search_under_its_own_budget() -> None:
    for seed in range(4):
        sites = make_sites(np.random.default_rng(seed), 8, 10)
        low, whole = (Bops().of(Policy.uniform(sites, b, b), sites) for b in (2, 8))
        limits = [Budget("bops", float(x)) for x in np.geomspace(low, whole, 12)]
        for candidate in search(sites, margin_table(sites, seed, BITS), budgets=limits):
            assert candidate.gap < 1.0
