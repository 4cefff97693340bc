from __future__ import annotations

from bitwright.values.linked import linked


def test_sets_that_share_a_member_are_one_group():
    chain = [("a", "b", "c"), ("x", "y", "z"), ("d", "c", "e"), ("y", "q", "r")]
    assert linked(chain) == [("a", "b", "c", "d", "e"), ("x", "y", "z", "q", "r")]
    assert linked([(1, 2), (3, 4), (5, 6), (2, 5), (6, 3)]) == [(1, 2, 3, 4, 5, 6)]
    assert linked([]) == []


def test_the_order_that_is_given_holds_for_groups_and_members():
    assert linked([(3, 1), (2,)], range(5)) == [(0,), (1, 3), (2,), (4,)]
