from __future__ import annotations

from dataclasses import replace

import pytest

from bitwright.cost import costs_for, keeps
from bitwright.flow.choose import (
    Choice,
    best_within,
    cheapest_holding,
    with_choices,
    without_repeats,
)
from bitwright.values import Budget, Candidate, Front, Operation, Policy, Scheme, Site, Sites, Verdict
from verdicts import classified

WEIGHT = Scheme(symmetric=True, signed=True)
SITES = Sites(
    (Site("x", "activation", (1, 10)), Site("fc.weight", "weight", (10, 10), WEIGHT)),
    (Operation("fc", "linear", 100, "x", "fc.weight"),),
    "abc",
)

MODELS = costs_for()


def verdict(kl: float, agreement: float = 1.0) -> Verdict:
    return classified(0.9, 0.9, 0.0, kl=kl, agreement=agreement, samples=100)


def candidate(w: int, a: int, kl: float, agreement: float = 1.0) -> Candidate:
    policy = Policy.uniform(SITES, w, a)
    return Candidate(policy, 0.0, {"bops": 100.0 * w * a}, verdict=verdict(kl, agreement))


def front(*candidates: Candidate) -> Front:
    return Front(candidates, "m", "u", "bops")


def test_the_smallest_kl_within_the_budget_is_chosen() -> None:
    pool = [candidate(2, 2, 0.5), candidate(4, 4, 0.2), candidate(3, 5, 0.1), candidate(8, 8, 0.01)]
    choice = best_within(pool, (Budget("bops", 1600.0, "bops=W4A4"),), SITES, MODELS)
    assert choice.candidate.policy.bits == {"x": 5, "fc.weight": 3}
    assert choice.candidate.policy.name == "bops=W4A4"
    assert choice.candidate.used == {"bops": pytest.approx(1500 / 1600)}
    assert (
        "the smallest KL to float (0.1000 nats) on held-out calibration samples, of 3 measured policies"
        in choice.reason
    )


def test_all_budgets_hold_at_once() -> None:
    limits = (Budget("bops", 1600.0), Budget("size", 50.0 + 5))  # 100 weights of 4 bits, one scale, one zero point
    assert keeps(Policy.uniform(SITES, 4, 4), limits, SITES, MODELS)
    assert not keeps(Policy.uniform(SITES, 5, 2), limits, SITES, MODELS)
    assert not keeps(Policy.uniform(SITES, 4, 5), limits, SITES, MODELS)


def test_the_cheapest_that_holds_the_target_with_all_dearer_ones() -> None:
    lucky = candidate(2, 2, 0.5, 0.999)
    found = front(candidate(8, 8, 0.01, 1.0), lucky, candidate(4, 4, 0.2, 0.996), candidate(3, 3, 0.3, 0.98))
    choice = cheapest_holding(found, 0.5, 100)
    assert choice.candidate.policy.bits == {"x": 4, "fc.weight": 4}
    assert "loses at most 0.5 points of accuracy: it changes 0.40% of the predictions on 100 held-out" in choice.reason
    assert cheapest_holding(found, 2.0, 100).candidate == lucky
    assert cheapest_holding(found, 0.1, 100).candidate.policy.bits == {"x": 8, "fc.weight": 8}


def test_a_target_that_nothing_holds_is_said_so() -> None:
    choice = cheapest_holding(front(candidate(4, 4, 0.2, 0.9), candidate(8, 8, 0.1, 0.98)), 0.5, 50)
    assert choice.candidate.policy.bits == {"x": 8, "fc.weight": 8}
    assert choice.reason.startswith(
        "No policy of the front is certain to lose at most 0.5 points of accuracy: even the most expensive one"
    )


def test_a_front_without_repeats_falls_strictly() -> None:
    a, b, c = candidate(2, 2, 0.5), candidate(3, 3, 0.6), candidate(4, 4, 0.1)
    assert [x.policy.name for x in without_repeats(front(c, b, a, a))] == ["W2A2", "W4A4"]


def test_choices_stay_on_the_front_under_their_own_name() -> None:
    a, b = candidate(2, 2, 0.5), candidate(4, 4, 0.1)
    named = replace(a, policy=Policy(a.policy.bits, a.policy.graph_hash, "bops=W2A2"))
    beaten = candidate(8, 8, 0.3)
    found = with_choices(front(a, b), [Choice(named, ""), Choice(beaten, "")])
    assert [x.policy.name for x in found] == ["bops=W2A2", "W4A4", "W8A8"]


def test_the_proof_of_another_budget_is_left_behind() -> None:
    small, large = (Budget("bops", 900.0, "bops=W3A3"),), (Budget("bops", 1600.0, "bops=W4A4"),)
    elsewhere = replace(candidate(3, 3, 0.1), predicted=3.0, budgets=small, optimal=True)
    searched = replace(candidate(4, 4, 0.2), predicted=2.0, budgets=large, optimal=True, gap=0.0)
    chosen = best_within([elsewhere, searched], large, SITES, MODELS).candidate
    assert chosen.policy.bits == elsewhere.policy.bits
    assert not chosen.optimal
    assert chosen.gap == pytest.approx(1 / 3)  # 3 against a proven least of 2
    alone = best_within([elsewhere], large, SITES, MODELS).candidate
    assert not alone.optimal
    kept = best_within([elsewhere, searched], small, SITES, MODELS).candidate
    assert kept.optimal


def test_a_proof_under_the_same_budget_is_kept() -> None:
    large = (Budget("bops", 1600.0),)
    searched = replace(candidate(4, 4, 0.1), predicted=2.0, budgets=large, optimal=True)
    assert best_within(
        [searched, candidate(2, 2, 0.3)], (Budget("bops", 1600.0, "bops=W4A4"),), SITES, MODELS
    ).candidate.optimal
