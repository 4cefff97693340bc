from __future__ import annotations

import numpy as np
import pytest

from bitwright.errors import InvalidInput
from bitwright.search import hypervolume, nondominated


def test_nondominated_by_hand() -> None:
    points = [(3, 0.9), (1, 0.5), (2, 0.4), (2, 0.7), (3, 0.9), (4, 0.9)]
    assert nondominated(points) == [1, 3, 0]
    assert nondominated(points, higher_is_better=False) == [1, 2]


def test_nondominated_against_every_pair() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        points = rng.integers(0, 8, (15, 2)).tolist()
        expected = {tuple(p) for p in points if not any(q[0] <= p[0] and q[1] >= p[1] and q != p for q in points)}
        found = [tuple(points[i]) for i in nondominated(points)]
        assert sorted(expected) == found


def test_hypervolume_by_hand() -> None:
    assert hypervolume([(1, 3), (2, 5)], reference=(4, 0)) == 3 * 3 + 2 * 2
    assert hypervolume([(1, 3), (2, 5)], (4, 10), higher_is_better=False) == 3 * 7
    assert hypervolume([(5, 3), (1, -1)], (4, 0)) == 0.0


def test_hypervolume_against_counting_cells() -> None:
    rng = np.random.default_rng(1)
    for _ in range(10):
        points = rng.integers(0, 10, (6, 2)).tolist()
        cells = sum(any(p[0] <= x and p[1] > y for p in points) for x in range(10) for y in range(10))
        assert hypervolume(points, (10, 0)) == cells


def test_unusable_points() -> None:
    with pytest.raises(InvalidInput, match="pairs .cost, quality. of finite numbers, got .1, nan."):
        nondominated([(1, float("nan"))])
    with pytest.raises(InvalidInput, match="finite numbers"):
        hypervolume([(1, 2)], (1, 2, 3))
