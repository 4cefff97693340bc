"""What the hardware allows: widths for each site, sites that agree, pairs of widths an operation can run at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from bitwright.errors import InvalidInput, nearest
from bitwright.values import Sites, check_bits
from bitwright.values.linked import linked

Width = int | None
"""Bits of a site; None is float."""
Pair = tuple[Width, Width]


@dataclass(frozen=True)
class Constraints:
    """Limits on the policies that search may choose from.

    Sites are named in full or by a pattern with ``*`` and ``?`` (``"*.weight"``). A width is 2 to 16 bits, or
    None (or ``"float"``) for float; float is a choice only where it is named here.

    Attributes:
        bits: site -> the widths that it may have. Where several entries match a site, all must hold.
        pinned: site -> the one width that it has.
        together: groups of sites that must have the same width.
        pairs: the allowed (weight bits, activation bits), either one list for all operations, or by the
            operation's name or kind (``"conv2d"``), with ``"*"`` for all others; the most specific entry
            counts. For a ``matmul`` of two activations a pair is (second operand, first operand).
            Operations with an operand in float run in float and are not restricted.
    """

    bits: Mapping[str, Sequence[Width | str]] = field(default_factory=dict)
    pinned: Mapping[str, Width | str] = field(default_factory=dict)
    together: Sequence[Sequence[str]] = ()
    pairs: Mapping[str, Iterable[Sequence[int]]] | Iterable[Sequence[int]] = ()

    def widths(self, sites: Sites, default: Sequence[int], scored: Iterable[str]) -> dict[str, tuple[Width, ...]]:
        """The widths that each site may have, ascending, float last.

        Args:
            sites: all sites.
            default: the widths of sites that no entry names.
            scored: the sites that the sensitivity table covers; all others stay in float.

        Raises:
            InvalidInput: an unknown site, a width out of range, or entries that leave a site no width.
        """
        covered = set(scored)
        allowed: dict[str, tuple[Width, ...]] = {
            s.name: tuple(sorted(default)) if s.name in covered else (None,) for s in sites
        }
        named: set[str] = set()
        rules = [(key, tuple(values), "bits") for key, values in self.bits.items()]
        rules += [(key, (value,), "pinned") for key, value in self.pinned.items()]
        for key, values, rule in rules:
            if isinstance(self.bits.get(key), str):
                raise InvalidInput(f"constraint bits for '{key}' must be a list of widths, got {self.bits[key]!r}")
            wanted = {_width(value, key) for value in values}
            for name in sites.matching(key):
                before = allowed[name]
                kept = wanted & set(before) if name in named or name not in covered else wanted
                if not kept:
                    reason = "it is not in the sensitivity table" if name not in covered else f"{_list(before)} is left"
                    raise InvalidInput(
                        f"constraint {rule} asks for {_list(wanted)} at site '{name}', where {reason}; "
                        "remove one of the two"
                    )
                allowed[name] = tuple(sorted(kept, key=lambda b: 99 if b is None else b))
                named.add(name)
        return allowed

    def groups(self, sites: Sites) -> list[tuple[str, ...]]:
        """Disjoint groups of two or more sites that must agree, in the order of the sites."""
        together = []
        for group in self.together:
            if isinstance(group, str):
                raise InvalidInput(f"constraint together takes lists of sites, got the text {group!r}; write [[...]]")
            together.append([name for key in group for name in sites.matching(key)])
        return [group for group in linked(together, sites.names) if len(group) > 1]

    def pairs_for(self, name: str, kind: str) -> frozenset[tuple[int, int]] | None:
        """The allowed (weight bits, activation bits) of an operation; None allows all."""
        if not isinstance(self.pairs, Mapping):
            entries = list(self.pairs)
            return _pairs(entries) if entries else None
        for key in (name, kind, "*"):
            if key in self.pairs:
                return _pairs(self.pairs[key])
        return None

    def check(self, sites: Sites) -> None:
        """Raise where ``pairs`` names an operation that the graph does not have."""
        if isinstance(self.pairs, Mapping):
            known = {"*"} | {op.name for op in sites.operations} | {op.kind for op in sites.operations}
            for key in self.pairs:
                if key not in known:
                    raise InvalidInput(
                        f"constraint pairs names operation '{key}', which this graph does not have"
                        f"{nearest(key, known)}; name an operation, a kind such as conv2d, or '*'"
                    )


def _width(value: object, key: str) -> Width:
    return None if value is None or value == "float" else check_bits(value, key)


def _list(widths: Iterable[Width]) -> str:
    ordered = sorted(widths, key=lambda b: 99 if b is None else b)
    return ", ".join("float" if b is None else f"{b} bits" for b in ordered)


def _pairs(entries: Iterable[Sequence[int]]) -> frozenset[tuple[int, int]]:
    found = set()
    for entry in entries:
        if isinstance(entry, str | int) or len(tuple(entry)) != 2:
            raise InvalidInput(f"constraint pairs must be (weight bits, activation bits), got {entry!r}")
        weight, activation = entry
        found.add((check_bits(weight, "pairs"), check_bits(activation, "pairs")))
    return frozenset(found)
