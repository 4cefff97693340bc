"""Misspelt texts."""

from __future__ import annotations

import pytest

from bitwright.behavior import typos
from bitwright.behavior.typos import NEIGHBOURS, SHARES
from bitwright.errors import InvalidInput

TEXT = "The quick brown fox jumps over the lazy dog, 12 times. " * 40


def distance(one, other):
    """Optimal string alignment: insertions, deletions, substitutions, swaps of two."""
    rows = [list(range(len(other) + 1))]
    for i, a in enumerate(one, 1):
        row = [i]
        for j, b in enumerate(other, 1):
            best = min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (a != b))
            if i > 1 and j > 1 and a == other[j - 2] and one[i - 2] == b:
                best = min(best, rows[-2][j - 2] + 1)
            row.append(best)
        rows.append(row)
    return rows[-1][-1]


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_a_share_of_the_letters_is_mistyped(severity):
    texts = [TEXT[:400]] * 12
    letters = sum(letter.lower() in NEIGHBOURS for letter in texts[0])
    found = typos(texts, severity, seed=1)
    assert len(set(found)) > 8  # each text draws its own
    slips = sum(distance(TEXT[:400], text) for text in found)
    assert slips / (12 * letters) == pytest.approx(SHARES[severity - 1], rel=0.35)
    assert found == typos(texts, severity, seed=1)
    assert found != typos(texts, severity, seed=2)


def test_every_slip_happens_and_marks_stay():
    (found,) = typos([TEXT], 5)
    keep = [letter for letter in TEXT if letter.lower() not in NEIGHBOURS]
    assert [letter for letter in found if letter.lower() not in NEIGHBOURS] == keep
    pairs = [(a, b) for text in typos(["ab"] * 400, 5) for a, b in [(text[:1], text[1:])]]
    seen = {a + b for a, b in pairs}
    assert {"ab", "b", "a", "aab", "abb", "ba"} <= seen
    assert {text[0] for text in seen if text[1:] == "b"} - {"a", "b"} <= set(NEIGHBOURS["a"])


def test_neighbours_touch():
    assert set(NEIGHBOURS["g"]) == set("fhtyvb")
    assert set(NEIGHBOURS["q"]) == set("wa")
    assert all(key in NEIGHBOURS[other] for key, others in NEIGHBOURS.items() for other in others)


def test_capitals_stay_capitals():
    assert all(text.isupper() for text in typos(["SHOUTING"] * 50, 5))


def test_a_severity_that_there_is_not():
    with pytest.raises(InvalidInput, match="severity must be one of 1, 2, 3, 4, 5, got 6"):
        typos(["a"], 6)
