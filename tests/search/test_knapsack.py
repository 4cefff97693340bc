"""The choice from lists against trying every combination, without the layers above."""

from __future__ import annotations

import numpy as np
import pytest

from bitwright.search import knapsack as knapsack_module
from bitwright.search.knapsack import Knapsack
from bitwright.search.objective import Objective, make_objective
from bitwright.search.options import Options, undominated

PLAIN = Objective((), (), 0)


def lists(rng: np.random.Generator, count: int, metrics: int) -> list[Options]:
    found = []
    for _ in range(count):
        n = int(rng.integers(1, 6))
        cost = np.sort(rng.integers(0, 100, (n, metrics)), axis=0).astype(float)
        value = np.sort(rng.integers(0, 1000, n))[::-1].astype(np.int64)
        found.append(Options(value, cost, np.arange(n, dtype=np.int8)[:, None]))
    return found


def brute_force(options: list[Options], limits: np.ndarray) -> int | None:
    value, cost = np.zeros(1, dtype=np.int64), np.zeros((1, len(limits)))
    for o in options:
        value = np.add.outer(value, o.value).ravel()
        cost = (cost[:, None, :] + o.cost[None, :, :]).reshape(len(value), -1)
    fits = (cost <= limits).all(axis=1)
    return int(value[fits].min()) if fits.any() else None


@pytest.mark.parametrize("metrics", [1, 2, 3])
@pytest.mark.parametrize("beams", [(256,), (1,), (1, 3)])
def test_the_smallest_value_or_an_honest_bound(
    metrics: int, beams: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(knapsack_module, "BEAMS", beams)
    rng = np.random.default_rng(metrics)
    proven = missed = 0
    for _ in range(60):
        options = lists(rng, int(rng.integers(1, 8)), metrics)
        limits = np.array([rng.uniform(0.1, 0.9) * sum(o.cost[:, j].max() for o in options) for j in range(metrics)])
        expected = brute_force(options, limits)
        knapsack = Knapsack(options, limits)
        if beams != (256,):
            monkeypatch.setattr(knapsack, "_improve", lambda: None)
        chosen = knapsack.solve(PLAIN)
        if expected is None:
            assert chosen.value is None
            continue
        assert chosen.bound <= expected
        if chosen.value is not None:
            assert chosen.value >= expected
            assert (knapsack.cost[chosen.picks].sum(axis=0) <= limits).all()
            assert knapsack.value[chosen.picks].sum() == chosen.value
            proven += PLAIN.gap(chosen.value, chosen.bound) <= 1e-6
            missed += chosen.value != expected
    assert (missed == 0) == (beams == (256,))
    assert proven >= 10


def test_a_solution_known_from_elsewhere_is_the_one_to_beat() -> None:
    rng = np.random.default_rng(0)
    options = lists(rng, 5, 1)
    limits = np.array([0.5 * sum(o.cost.max() for o in options)])
    best = brute_force(options, limits)
    assert best is not None
    assert Knapsack(options, limits).solve(PLAIN, known=best + 1).value == best
    assert Knapsack(options, limits).solve(PLAIN, known=best - 5).bound >= best - 5


def test_nothing_fits() -> None:
    options = lists(np.random.default_rng(0), 3, 1)
    chosen = Knapsack(options, np.array([-1.0])).solve(PLAIN)
    assert chosen.value is None
    assert chosen.bound == np.inf


@pytest.mark.parametrize("metrics", [1, 2, 3])
def test_undominated_against_every_pair(metrics: int) -> None:
    rng = np.random.default_rng(metrics)
    for n in (1, 5, 60, 900):
        value = rng.integers(0, 40, n).astype(np.int64)
        cost = rng.integers(0, 12, (n, metrics)).astype(float)
        kept = undominated(value, cost)
        points = np.column_stack([value, cost])
        assert len({tuple(p) for p in points[kept]}) == len(kept)
        better = [(points <= p).all(axis=1) & (points < p).any(axis=1) for p in points]
        expected = {tuple(p) for p, b in zip(points, better, strict=True) if not b.any()}
        assert {tuple(p) for p in points[kept]} == expected


def test_harms_become_whole_numbers_without_losing_their_order() -> None:
    harms = [np.array([3e-9, 1e-9, -2e-9]), np.array([0.0, 0.0, 5e-9])]
    preference = [np.array([3, 1, 0]), np.array([3, 1, 0])]
    objective = make_objective(harms, preference)
    assert objective.shift == 3
    steps = [v >> objective.shift for v in objective.values]
    assert steps[0].tolist() == [max(steps[0]), round(max(steps[0]) * 0.6), 0]
    assert steps[1].tolist() == [0, 0, max(steps[0])]
    assert [(v & 7).tolist() for v in objective.values] == [[3, 1, 0], [3, 1, 0]]
    ceiling = make_objective(harms, preference, ceiling=3.5e-9)
    assert [p.tolist() for p in ceiling.possible] == [[False, True, True], [True, True, False]]


def test_the_gap_counts_harm_and_not_the_tie_break() -> None:
    objective = Objective((), (), 4)
    assert objective.gap((100 << 4) + 9, (100 << 4) + 1.0) == 0.0
    assert objective.gap(100 << 4, 90 << 4) == pytest.approx(0.1)
    assert objective.gap(100 << 4, -np.inf) == 1.0
    assert objective.gap(100 << 4, np.inf) == 0.0
