"""Groups of what belongs together, from sets that share members."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import TypeVar

Member = TypeVar("Member", bound=Hashable)


def linked(sets: Iterable[Iterable[Member]], order: Iterable[Member] = ()) -> list[tuple[Member, ...]]:
    """Disjoint groups of members that stand in one set, directly or through sets that share a member.

    Args:
        sets: any number of them.
        order: the order of members, and so of groups, as far as it is given; members of no set are groups of their own.
    """
    leader = {member: member for member in order}

    def find(member: Member) -> Member:
        leader.setdefault(member, member)
        while leader[member] != member:
            leader[member] = leader[leader[member]]
            member = leader[member]
        return member

    for joined in sets:
        members = list(joined)
        for member in members:
            leader[find(member)] = find(members[0])
    groups: dict[Member, list[Member]] = {}
    for member in leader:
        groups.setdefault(find(member), []).append(member)
    return [tuple(group) for group in groups.values()]
